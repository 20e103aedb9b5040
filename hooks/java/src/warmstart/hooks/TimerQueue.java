package warmstart.hooks;

import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.util.IdentityHashMap;
import java.util.Map;
import java.util.TimerTask;

/**
 * The periodic tasks of a Timer; others have a time of day, at which they run. They are found by the timer's thread, since
 * a Timer that the application has forgotten goes on.
 */
final class TimerQueue implements Schedules.Queue {

    private static final String THREAD = "java.util.TimerThread";
    private static final long FAR_MS = Long.MAX_VALUE >> 2;

    private final Object queue;
    private final Field next = Internals.field(TimerTask.class, "nextExecutionTime");
    private final Field period = Internals.field(TimerTask.class, "period");
    private final Method heapify;
    private final Map<TimerTask, Long> delays = new IdentityHashMap<>();

    TimerQueue(Thread thread) throws ReflectiveOperationException {
        queue = Internals.get(thread, "queue");
        heapify = heapify(queue.getClass());
    }

    /** Says whether a thread is one of a Timer. */
    static boolean isTimer(Thread thread) {
        return thread.getClass().getName().equals(THREAD);
    }

    /** Finds out whether the fields are there. */
    static void check() throws ReflectiveOperationException {
        Internals.field(TimerTask.class, "nextExecutionTime");
        Internals.field(TimerTask.class, "period");
        Class<?> queue = Internals.field(Class.forName(THREAD), "queue").getType();
        Internals.field(queue, "queue");
        heapify(queue);
    }

    private static Method heapify(Class<?> queue) throws ReflectiveOperationException {
        return Internals.accessible(queue.getDeclaredMethod("heapify"));
    }

    @Override
    public boolean park() throws ReflectiveOperationException {
        synchronized (queue) {
            long now = System.currentTimeMillis();
            for (TimerTask task : periodic()) {
                if (!delays.containsKey(task)) {
                    delays.put(task, next.getLong(task) - now);
                    next.setLong(task, FAR_MS + next.getLong(task));
                }
            }
            heapify.invoke(queue);
        }
        return false; // a task is back in the queue before it runs
    }

    @Override
    public void unpark() throws ReflectiveOperationException {
        synchronized (queue) {
            long now = System.currentTimeMillis();
            for (TimerTask task : periodic()) {
                Long delay = delays.get(task);
                next.setLong(task, now + (delay == null ? Math.abs(period.getLong(task)) : delay));
            }
            heapify.invoke(queue);
            queue.notifyAll();
        }
    }

    private Iterable<TimerTask> periodic() throws ReflectiveOperationException {
        Map<TimerTask, Boolean> periodic = new IdentityHashMap<>();
        for (TimerTask task : (TimerTask[]) Internals.get(queue, "queue")) {
            // Beyond the queue's size lie tasks of the past: to move them changes nothing.
            if (task != null && period.getLong(task) != 0) {
                periodic.put(task, true);
            }
        }
        return periodic.keySet();
    }
}
