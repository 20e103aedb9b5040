package warmstart.hooks;

import java.lang.reflect.Field;
import java.util.IdentityHashMap;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.TimeUnit;

/** The tasks of one of Netty's event loops, which only its own thread may touch. */
final class NettyQueue implements Schedules.Queue {

    static final String CLASS = "io/netty/util/concurrent/AbstractScheduledEventExecutor";
    // It has tasks of one second alone, and a thread that comes and goes.
    private static final String GLOBAL = "GlobalEventExecutor";

    private static final long FAR_NS = Long.MAX_VALUE >> 2; // 73 years
    private static final long PATIENCE_MS = 500;

    private final ExecutorService loop;
    private final Field queue;
    // What each deadline was, and at which time of the JVM's clock it was moved.
    private final Map<Object, long[]> moved = new IdentityHashMap<>();

    NettyQueue(Object loop) throws ReflectiveOperationException {
        this.loop = (ExecutorService) loop;
        this.queue = Internals.field(loop.getClass(), "scheduledTaskQueue");
    }

    static boolean has(Object loop) {
        return !loop.getClass().getSimpleName().equals(GLOBAL);
    }

    @Override
    public boolean park() throws ReflectiveOperationException {
        return !inLoop(true);
    }

    @Override
    public void unpark() throws ReflectiveOperationException {
        inLoop(false);
    }

    /** Has the loop's thread move the tasks; returns whether it is done. */
    private boolean inLoop(boolean away) throws ReflectiveOperationException {
        Queue<Object> tasks = tasks();
        if (tasks == null || tasks.isEmpty() || loop.isShutdown()) {
            return true;
        }
        CountDownLatch done = new CountDownLatch(1);
        try {
            loop.execute(() -> {
                move(away);
                done.countDown();
            });
            return done.await(PATIENCE_MS, TimeUnit.MILLISECONDS);
        } catch (RejectedExecutionException e) {
            return true; // it ends
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            return true;
        }
    }

    private void move(boolean away) {
        try {
            Queue<Object> queued = tasks();
            Object[] tasks = queued.toArray();
            queued.clear();
            long now = System.nanoTime();
            for (Object task : tasks) {
                Field deadline = Internals.field(task.getClass(), "deadlineNanos");
                long[] before = moved.get(task);
                if (away && before == null) {
                    moved.put(task, new long[] {deadline.getLong(task), now});
                    deadline.setLong(task, deadline.getLong(task) + FAR_NS);
                } else if (!away && before != null) {
                    deadline.setLong(task, before[0] + now - before[1]);
                }
                queued.add(task);
            }
        } catch (ReflectiveOperationException | RuntimeException e) {
            Log.line("hooks leave tasks of Netty as they are: " + e);
        }
    }

    /** Returns the tasks, or null if there was none yet. */
    @SuppressWarnings("unchecked")
    private Queue<Object> tasks() throws ReflectiveOperationException {
        return (Queue<Object>) queue.get(loop);
    }
}
