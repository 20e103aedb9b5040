package warmstart.crac;

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

    private static final GlobalContext GLOBAL = new GlobalContext();
    private static volatile Requester requester;

    private Core() {}

    public static Context<Resource> getGlobalContext() {
        return GLOBAL;
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
