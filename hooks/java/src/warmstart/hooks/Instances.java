package warmstart.hooks;

import java.io.IOException;
import java.io.InputStream;
import java.lang.instrument.ClassFileTransformer;
import java.lang.instrument.Instrumentation;
import java.lang.instrument.UnmodifiableClassException;
import java.lang.invoke.MethodHandles;
import java.lang.reflect.Method;
import java.security.ProtectionDomain;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.SplittableRandom;
import java.util.concurrent.ScheduledThreadPoolExecutor;

/**
 * Finds the objects of some classes of the JDK and of libraries. Nothing else can without a native agent: their
 * constructors report them to a weak list from the start of the JVM to the restore; after it, a call of an empty method
 * is left of it.
 */
final class Instances implements ClassFileTransformer {

    // A task whose constructor gets a time, a period and a number is a periodic one.
    private static final String PERIODIC =
            "(Ljava/util/concurrent/ScheduledThreadPoolExecutor;Ljava/lang/Runnable;Ljava/lang/Object;JJJ)V";
    // Classes of libraries, also of copies in packages of other names.
    private static final String[] LIBRARIES = {
        HikariPool.CLASS, OtherPool.AGROAL, OtherPool.TOMCAT, NettyQueue.CLASS, NettyTimer.CLASS
    };

    // The descriptors of the constructors; those of a Random with a seed are not meant to draw anything else.
    private final Map<Class<?>, String> reporting = new HashMap<>(Map.of(
            Random.class, "()V",
            SplittableRandom.class, "()V",
            SecureRandom.class, "",
            ScheduledThreadPoolExecutor.class, ""));
    private final Instrumentation instrumentation;
    private final Method living;
    private final Method close;

    Instances(Instrumentation instrumentation)
            throws IOException, ReflectiveOperationException, UnmodifiableClassException {
        this.instrumentation = instrumentation;
        reporting.put(Class.forName(ExecutorQueue.TASK), PERIODIC);
        Class<?> list = define();
        living = list.getMethod("living");
        close = list.getMethod("close");
        instrumentation.addTransformer(this, true);
        instrumentation.retransformClasses(reporting.keySet().toArray(new Class<?>[0]));
    }

    /** Returns the living objects of a class, if they were made since the JVM's start. */
    <T> List<T> of(Class<T> type) throws ReflectiveOperationException {
        List<T> found = new ArrayList<>();
        for (Object instance : (Set<?>) living.invoke(null)) {
            if (type.isInstance(instance)) {
                found.add(type.cast(instance));
            }
        }
        return found;
    }

    /** Returns the living objects of a library's class, by the end of its name, with slashes. */
    List<Object> named(String name) throws ReflectiveOperationException {
        List<Object> found = new ArrayList<>();
        for (Object instance : (Set<?>) living.invoke(null)) {
            Class<?> type = instance.getClass();
            while (type != null && !type.getName().replace('.', '/').endsWith(name)) {
                type = type.getSuperclass();
            }
            if (type != null) {
                found.add(instance);
            }
        }
        return found;
    }

    /** Ends it. */
    void close() throws ReflectiveOperationException {
        instrumentation.removeTransformer(this);
        close.invoke(null);
    }

    @Override
    public byte[] transform(
            ClassLoader loader, String name, Class<?> redefined, ProtectionDomain domain, byte[] classFile) {
        String descriptor = reporting.get(redefined);
        if (redefined == null && loader != null && isOfLibrary(name)) {
            descriptor = "";
        }
        return descriptor == null ? null : new ConstructorPatch(classFile, descriptor).apply();
    }

    private static boolean isOfLibrary(String name) {
        for (int i = 0; name != null && i < LIBRARIES.length; i++) {
            if (name.endsWith(LIBRARIES[i])) {
                return true;
            }
        }
        return false;
    }

    /** Defines the list in java.util: java.base can call nothing outside of itself. */
    private static Class<?> define() throws IOException, IllegalAccessException {
        try (InputStream resource = Instances.class.getResourceAsStream("WarmstartInstances.bin")) {
            return MethodHandles.privateLookupIn(Random.class, MethodHandles.lookup())
                    .defineClass(resource.readAllBytes());
        }
    }
}
