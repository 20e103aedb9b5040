package warmstart.crac;

import java.lang.ref.WeakReference;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Objects;

/**
 * The global context, with the properties that org.crac's documentation gives it: weak references, the reverse of the
 * order of registration before the checkpoint and that order after the restore, and every resource is notified, whatever
 * the others throw.
 */
final class GlobalContext extends Context<Resource> {

    private static final int PRUNE_AT = 64;

    private final List<WeakReference<Resource>> registered = new ArrayList<>();
    private int pruneAt = PRUNE_AT;
    /** Those that were notified of the checkpoint: they live until they are notified of the restore. */
    private List<Resource> notified = List.of();

    @Override
    public void register(Resource resource) {
        WeakReference<Resource> reference = new WeakReference<>(Objects.requireNonNull(resource));
        synchronized (registered) {
            if (registered.size() >= pruneAt) {
                registered.removeIf(known -> known.get() == null);
                pruneAt = Math.max(PRUNE_AT, 2 * registered.size());
            }
            registered.add(reference);
        }
    }

    @Override
    public void beforeCheckpoint(Context<? extends Resource> context) throws CheckpointException {
        notified = living();
        List<Resource> reversed = new ArrayList<>(notified);
        Collections.reverse(reversed);
        CheckpointException failure = new CheckpointException();
        for (Resource resource : reversed) {
            try {
                resource.beforeCheckpoint(this);
            } catch (Throwable thrown) {
                gather(failure, thrown);
            }
        }
        if (failure.getSuppressed().length > 0) {
            throw failure;
        }
    }

    @Override
    public void afterRestore(Context<? extends Resource> context) throws RestoreException {
        List<Resource> waiting = notified;
        notified = List.of();
        RestoreException failure = new RestoreException();
        for (Resource resource : waiting) {
            try {
                resource.afterRestore(this);
            } catch (Throwable thrown) {
                gather(failure, thrown);
            }
        }
        if (failure.getSuppressed().length > 0) {
            throw failure;
        }
    }

    List<Resource> living() {
        List<Resource> living = new ArrayList<>();
        synchronized (registered) {
            for (WeakReference<Resource> reference : registered) {
                Resource resource = reference.get();
                if (resource != null) {
                    living.add(resource);
                }
            }
        }
        return living;
    }

    /** Adds an exception; of a context's, those that it gathered. */
    private static void gather(Exception failure, Throwable thrown) {
        Throwable[] gathered = isGathered(thrown) ? thrown.getSuppressed() : new Throwable[0];
        for (Throwable one : gathered) {
            failure.addSuppressed(one);
        }
        if (gathered.length == 0) {
            failure.addSuppressed(thrown);
        }
    }

    /** Says whether a context threw it: one of ours, of org.crac's or of a JDK's, known by the name alone. */
    private static boolean isGathered(Throwable thrown) {
        String name = thrown.getClass().getSimpleName();
        return name.equals("CheckpointException") || name.equals("RestoreException");
    }
}
