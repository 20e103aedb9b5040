package io.netty.util.concurrent;

import java.util.PriorityQueue;
import java.util.Queue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/** An event loop with the fields that Netty's has: its thread alone touches the tasks. */
public class AbstractScheduledEventExecutor extends ThreadPoolExecutor {

    static class ScheduledFutureTask implements Comparable<ScheduledFutureTask> {
        private long deadlineNanos;
        private long periodNanos;

        @Override
        public int compareTo(ScheduledFutureTask other) {
            return Long.compare(deadlineNanos, other.deadlineNanos);
        }
    }

    private Queue<ScheduledFutureTask> scheduledTaskQueue;
    private int runs;

    public AbstractScheduledEventExecutor() {
        super(1, 1, 1, TimeUnit.SECONDS, new LinkedBlockingQueue<>());
        setThreadFactory(work -> {
            Thread thread = new Thread(work);
            thread.setDaemon(true);
            return thread;
        });
    }

    public void scheduleAtFixedRate(long period, TimeUnit unit) {
        ScheduledFutureTask task = new ScheduledFutureTask();
        task.periodNanos = unit.toNanos(period);
        task.deadlineNanos = System.nanoTime() + task.periodNanos;
        scheduledTaskQueue = new PriorityQueue<>();
        scheduledTaskQueue.add(task);
        execute(this::poll);
    }

    /** Returns how often the tasks ran since the last call. */
    public int ran() throws Exception {
        return submit(() -> {
                    int ran = runs;
                    runs = 0;
                    return ran;
                })
                .get();
    }

    private void poll() {
        ScheduledFutureTask task = scheduledTaskQueue.peek();
        if (task.deadlineNanos <= System.nanoTime()) {
            scheduledTaskQueue.poll();
            runs++;
            task.deadlineNanos += task.periodNanos;
            scheduledTaskQueue.add(task);
        } else {
            java.util.concurrent.locks.LockSupport.parkNanos(100_000);
        }
        execute(this::poll);
    }
}
