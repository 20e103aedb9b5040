package java.util;

import java.lang.ref.WeakReference;

/**
 * Objects that the JDK's own constructors report during a build. Defined into java.util, so that java.base can call it.
 */
public final class WarmstartInstances {

    private static final int PRUNE_AT = 256;

    // Null from the restore on.
    private static volatile ArrayList<WeakReference<Object>> instances = new ArrayList<>();
    private static int pruneAt = PRUNE_AT;

    private WarmstartInstances() {}

    /** Called at the end of the constructors. */
    public static void add(Object instance) {
        ArrayList<WeakReference<Object>> known = instances;
        if (known == null) {
            return;
        }
        synchronized (known) {
            if (known.size() >= pruneAt) {
                known.removeIf(reference -> reference.get() == null);
                pruneAt = Math.max(PRUNE_AT, 2 * known.size());
            }
            known.add(new WeakReference<>(instance));
        }
    }

    /** Returns those that live, each once. */
    public static Set<Object> living() {
        Set<Object> living = Collections.newSetFromMap(new IdentityHashMap<>());
        ArrayList<WeakReference<Object>> known = instances;
        if (known == null) {
            return living;
        }
        synchronized (known) {
            for (WeakReference<Object> reference : known) {
                Object instance = reference.get();
                if (instance != null) {
                    living.add(instance);
                }
            }
        }
        return living;
    }

    /** Ends it: nothing is a build any more. */
    public static void close() {
        instances = null;
    }
}
