package warmstart.crac;

/** Has the exceptions of the resources as its suppressed ones. */
public final class CheckpointException extends Exception {

    private static final long serialVersionUID = 1L;
}
