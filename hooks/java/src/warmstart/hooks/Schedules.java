package warmstart.hooks;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import warmstart.crac.Context;
import warmstart.crac.Resource;

/**
 * Tasks do not catch up with the time between the checkpoint and the restore. Before the checkpoint they move into the
 * far future, so that nothing is due at the moment of the restore; after it, each has the delay again that it had left.
 */
final class Schedules implements Resource {

    /** What holds tasks. */
    interface Queue {
        /** Moves tasks into the far future; returns whether one runs, and may come back into the queue. */
        boolean park() throws ReflectiveOperationException;

        /** Moves them back. */
        void unpark() throws ReflectiveOperationException;
    }

    private static final long PATIENCE_NS = TimeUnit.MILLISECONDS.toNanos(500);
    private static final long PAUSE_MS = 5;

    private final Instances instances;
    private final List<Queue> parked = new ArrayList<>();

    Schedules(Instances instances) throws ReflectiveOperationException {
        this.instances = instances;
        ExecutorQueue.check();
        TimerQueue.check();
    }

    @Override
    public void beforeCheckpoint(Context<? extends Resource> context)
            throws ReflectiveOperationException, InterruptedException {
        for (ScheduledThreadPoolExecutor executor : instances.of(ScheduledThreadPoolExecutor.class)) {
            parked.add(new ExecutorQueue(executor, instances));
        }
        for (Thread thread : Threads.all()) {
            if (TimerQueue.isTimer(thread)) {
                parked.add(new TimerQueue(thread));
            }
        }
        for (Object loop : instances.named(NettyQueue.CLASS)) {
            if (NettyQueue.has(loop)) {
                parked.add(new NettyQueue(loop));
            }
        }
        for (Object timer : instances.named(NettyTimer.CLASS)) {
            parked.add(new NettyTimer(timer));
        }
        long end = System.nanoTime() + PATIENCE_NS;
        while (park() && System.nanoTime() < end) {
            Thread.sleep(PAUSE_MS);
        }
    }

    private boolean park() throws ReflectiveOperationException {
        boolean running = false;
        for (Queue queue : parked) {
            running |= queue.park();
        }
        return running;
    }

    @Override
    public void afterRestore(Context<? extends Resource> context) throws ReflectiveOperationException {
        for (Queue queue : parked) {
            queue.unpark();
        }
        parked.clear();
    }
}
