package warmstart.hooks;

import java.util.concurrent.CountDownLatch;
import warmstart.crac.CheckpointException;
import warmstart.crac.RestoreException;

/** From waiting for a checkpoint to the end of the callbacks after the restore. */
final class Cycle {

    private final CountDownLatch over = new CountDownLatch(1);
    private volatile CheckpointException refused;
    private volatile RestoreException failed;

    /** Ends it, for those who asked for the checkpoint. */
    void end(PhaseException before, PhaseException after) {
        if (before != null) {
            refused = new CheckpointException();
            addAll(refused, before);
            addAll(refused, after);
        } else if (after != null) {
            failed = new RestoreException();
            addAll(failed, after);
        }
        over.countDown();
    }

    void await() throws CheckpointException, RestoreException {
        boolean interrupted = false;
        while (true) {
            try {
                over.await();
                break;
            } catch (InterruptedException e) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
        if (refused != null) {
            throw refused;
        }
        if (failed != null) {
            throw failed;
        }
    }

    private static void addAll(Exception to, PhaseException from) {
        if (from == null) {
            return;
        }
        Throwable cause = from.getCause();
        if (cause == null || cause.getSuppressed().length == 0) {
            to.addSuppressed(cause == null ? from : cause);
            return;
        }
        for (Throwable one : cause.getSuppressed()) {
            to.addSuppressed(one);
        }
    }
}
