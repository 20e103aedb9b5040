package warmstart.hooks;

import java.lang.instrument.Instrumentation;
import java.lang.reflect.AccessibleObject;
import java.lang.reflect.Field;
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

    static <T extends AccessibleObject> T accessible(T member) {
        member.setAccessible(true);
        return member;
    }
}
