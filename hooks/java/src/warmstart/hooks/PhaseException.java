package warmstart.hooks;

/** A phase failed: the message says how, for the build's log. */
final class PhaseException extends Exception {

    private static final long serialVersionUID = 1L;

    PhaseException(String message, Throwable cause) {
        super(message, cause);
    }
}
