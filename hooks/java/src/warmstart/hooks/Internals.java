package warmstart.hooks;

import java.lang.instrument.Instrumentation;
import java.lang.reflect.AccessibleObject;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;

/** Fields that are no interface: of the JDK, whose packages an agent may open, and of libraries. */
final class Internals {

    private Internals() {}

    /** Opens packages of the module of a class to the agent. */
    static void open(Instrumentation instrumentation, Class<?> member, String... packages) {
        Map<String, Set<Module>> opens = new HashMap<>();
        for (String name : packages) {
            if (member.getModule().getPackages().contains(name)) {
                opens.put(name, Set.of(Internals.class.getModule()));
            }
        }
        instrumentation.redefineModule(member.getModule(), Set.of(), Map.of(), opens, Set.of(), Map.of());
    }

    /** Returns a field of a class or of one of those that it extends. */
    static Field field(Class<?> owner, String name) throws NoSuchFieldException {
        for (Class<?> type = owner; type != null; type = type.getSuperclass()) {
            try {
                return accessible(type.getDeclaredField(name));
            } catch (NoSuchFieldException e) {
                // Perhaps in the class that it extends.
            }
        }
        throw new NoSuchFieldException(owner.getName() + "." + name);
    }

    /** Returns the value of an object's field. */
    static Object get(Object object, String name) throws ReflectiveOperationException {
        return field(object.getClass(), name).get(object);
    }

    /** Returns the value of a static field of a class. */
    static Object getStatic(Class<?> owner, String name) throws ReflectiveOperationException {
        return field(owner, name).get(null);
    }

    /** Calls a public method, by its name and the types of its arguments. */
    static Object call(Object object, String name, Object... arguments) throws ReflectiveOperationException {
        for (Method method : object.getClass().getMethods()) {
            if (method.getName().equals(name) && takes(method, arguments)) {
                return accessible(method).invoke(object, arguments);
            }
        }
        throw new NoSuchMethodException(object.getClass().getName() + "." + name);
    }

    static boolean hasMethod(Object object, String name) {
        for (Method method : object.getClass().getMethods()) {
            if (method.getName().equals(name)) {
                return true;
            }
        }
        return false;
    }

    private static boolean takes(Method method, Object[] arguments) {
        Class<?>[] types = method.getParameterTypes();
        boolean fits = types.length == arguments.length;
        for (int i = 0; fits && i < types.length; i++) {
            fits = types[i].isInstance(arguments[i]) || types[i].isPrimitive() && !(arguments[i] instanceof String);
        }
        return fits;
    }

    static <T extends AccessibleObject> T accessible(T member) {
        member.setAccessible(true);
        return member;
    }
}
