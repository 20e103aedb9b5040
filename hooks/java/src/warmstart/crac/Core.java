package warmstart.crac;

import java.util.List;

/**
 * The provider that org.crac loads by the name of its package (system property org.crac.Core.Compat).
 *
 * <p>It has no code of the protocol, so that it can serve a JVM in which nothing takes checkpoints: there, {@code
 * checkpointRestore} returns at once, as after a restore.
 */
public final class Core {

    /** Asks for a checkpoint, and returns after the restore. */
    public interface Requester {
        void checkpointRestore() throws CheckpointException, RestoreException;
    }

    /** Whether applications are notified; their resources are known in any case. */
    public static final boolean CALLBACKS = !"none".equals(System.getenv("WARMSTART_HOOKS_CALLBACKS"));

    private static final GlobalContext GLOBAL = new GlobalContext();
    private static final GlobalContext NOTIFIED = CALLBACKS ? GLOBAL : new GlobalContext();
    private static volatile Requester requester;

    private Core() {}

    /**
     * Returns the context that applications register with.
     *
     * @throws UnsupportedOperationException if the JDK has CRaC itself: org.crac then takes the JDK's
     */
    public static Context<Resource> getGlobalContext() {
        if (jdkCore() != null) {
            throw new UnsupportedOperationException("this JDK has CRaC itself");
        }
        return GLOBAL;
    }

    /** Returns the context that the agent notifies, whoever serves the applications. */
    public static Context<Resource> ownContext() {
        return NOTIFIED;
    }

    /** Returns the living resources in the order of their registration. */
    public static List<Resource> resources() {
        return GLOBAL.living();
    }

    /** Returns the class that serves org.crac in a JDK that has CRaC, or null. */
    public static Class<?> jdkCore() {
        try {
            return Class.forName("jdk.crac.Core", false, null);
        } catch (ClassNotFoundException e) {
            return null;
        }
    }

    public static void checkpointRestore() throws CheckpointException, RestoreException {
        Requester current = requester;
        if (current != null) {
            current.checkpointRestore();
        }
    }

    public static void serve(Requester served) {
        requester = served;
    }
}
