package warmstart.hooks;

import java.lang.reflect.Field;
import java.util.ArrayList;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Delayed;
import java.util.concurrent.RunnableScheduledFuture;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReentrantLock;

/** The tasks of a ScheduledThreadPoolExecutor. */
final class ExecutorQueue implements Schedules.Queue {

    static final String TASK = "java.util.concurrent.ScheduledThreadPoolExecutor$ScheduledFutureTask";
    private static final long FAR_NS = Long.MAX_VALUE >> 2; // 73 years
    private static final int DEPTH = 3;

    private final Instances instances;
    private final ScheduledThreadPoolExecutor executor;
    private final BlockingQueue<Runnable> queue; // an application may override getQueue()
    private final ReentrantLock lock;
    private final ReentrantLock mainLock;
    private final Set<?> workers;
    private final Map<Object, Long> delays = new IdentityHashMap<>();
    private final List<Object> taken = new ArrayList<>();

    @SuppressWarnings("unchecked")
    ExecutorQueue(ScheduledThreadPoolExecutor executor, Instances instances) throws ReflectiveOperationException {
        this.instances = instances;
        this.executor = executor;
        queue = (BlockingQueue<Runnable>) Internals.get(executor, "workQueue");
        lock = (ReentrantLock) Internals.get(queue, "lock");
        mainLock = (ReentrantLock) Internals.get(executor, "mainLock");
        workers = (Set<?>) Internals.get(executor, "workers");
    }

    /** Finds out whether the fields are there. */
    static void check() throws ReflectiveOperationException {
        timeField();
        new ExecutorQueue(new ScheduledThreadPoolExecutor(0), null);
    }

    private static Field timeField() throws ReflectiveOperationException {
        return Internals.field(Class.forName(TASK), "time");
    }

    @Override
    public boolean park() throws ReflectiveOperationException {
        lock.lock();
        try {
            Object[] tasks = take();
            for (Object queued : tasks) {
                Object task = innermost(queued, DEPTH);
                if (task != null && !delays.containsKey(task)) {
                    delays.put(task, ((Delayed) task).getDelay(TimeUnit.NANOSECONDS));
                    timeField().setLong(task, System.nanoTime() + FAR_NS + delays.get(task));
                }
            }
            put(tasks);
            return findTaken();
        } finally {
            lock.unlock();
        }
    }

    /**
     * Finds the periodic tasks that are out of the queue: they run, or a thread has taken them and is about to run them.
     * The caller holds the queue's lock, so that no thread takes a task or brings one back meanwhile. The executor takes
     * these locks in the other order (shutdownNow), so this does not wait.
     */
    private boolean findTaken() throws ReflectiveOperationException {
        taken.clear();
        if (mainLock.tryLock()) {
            try {
                if (!isBusy()) {
                    return false;
                }
            } finally {
                mainLock.unlock();
            }
        }
        for (Object task : instances.of(Class.forName(TASK))) {
            if (Internals.get(task, "this$0") == executor && !delays.containsKey(task)) {
                taken.add(task);
            }
        }
        return true;
    }

    private boolean isBusy() throws ReflectiveOperationException {
        for (Object worker : workers) {
            Thread thread = (Thread) Internals.get(worker, "thread");
            if (thread.getState() == Thread.State.RUNNABLE || thread.getState() == Thread.State.BLOCKED) {
                return true;
            }
        }
        return executor.getActiveCount() > 0;
    }

    @Override
    public void unpark() throws ReflectiveOperationException {
        Field time = timeField();
        lock.lock();
        try {
            Object[] tasks = take();
            long now = System.nanoTime();
            for (Object queued : tasks) {
                Object task = innermost(queued, DEPTH);
                Long delay = task == null ? null : delays.get(task);
                if (delay != null) {
                    time.setLong(task, now + delay);
                } else if (task != null && ((RunnableScheduledFuture<?>) task).isPeriodic()) {
                    taken.add(task);
                }
            }
            for (Object task : taken) {
                // It ran during the checkpoint, or still runs, and has its old time.
                long period = Math.abs(Internals.field(task.getClass(), "period").getLong(task));
                time.setLong(task, now + period);
            }
            put(tasks);
        } finally {
            lock.unlock();
        }
    }

    private Object[] take() {
        Object[] tasks = queue.toArray();
        queue.clear();
        return tasks;
    }

    private void put(Object[] tasks) {
        for (Object task : tasks) {
            queue.add((Runnable) task);
        }
    }

    /** Returns the JDK's own task in one that an application's executor wraps around it, or null. */
    private static Object innermost(Object task, int depth) throws ReflectiveOperationException {
        if (task.getClass().getName().equals(TASK)) {
            return task;
        }
        if (depth == 0) {
            return null;
        }
        for (Class<?> type = task.getClass(); type != null; type = type.getSuperclass()) {
            for (Field field : type.getDeclaredFields()) {
                Object value = RunnableScheduledFuture.class.isAssignableFrom(field.getType())
                        ? Internals.accessible(field).get(task)
                        : null;
                Object found = value == null ? null : innermost(value, depth - 1);
                if (found != null) {
                    return found;
                }
            }
        }
        return null;
    }
}
