package io.netty.util;

import java.util.ArrayList;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;

/** A timer with the fields that Netty's has: its thread alone touches the wheel. */
public class HashedWheelTimer {

    /** A task of the timer. */
    public interface TimerTask {
        void run(Object timeout) throws Exception;
    }

    private final class Worker implements Runnable {
        private long tick;

        @Override
        public void run() {
            while (true) {
                while (System.nanoTime() - startTime < tickDuration * (tick + 1)) {
                    LockSupport.parkNanos(100_000);
                }
                for (Timeout timeout = added.poll(); timeout != null; timeout = added.poll()) {
                    timeout.rounds = (timeout.tick - tick) / wheel.length;
                    wheel[(int) (Math.max(timeout.tick, tick) % wheel.length)].add(timeout);
                }
                wheel[(int) (tick % wheel.length)].removeIf(timeout -> timeout.rounds-- <= 0 && timeout.expire());
                tick++;
                ticks++;
            }
        }
    }

    private static final class Timeout {
        private final TimerTask task;
        private final long tick;
        private long rounds;

        Timeout(TimerTask task, long tick) {
            this.task = task;
            this.tick = tick;
        }

        boolean expire() {
            try {
                task.run(this);
            } catch (Exception e) {
                e.printStackTrace();
            }
            return true;
        }
    }

    private final long tickDuration = TimeUnit.MILLISECONDS.toNanos(10);
    private final long startTime = System.nanoTime();
    private final Queue<Timeout> added = new ConcurrentLinkedQueue<>();
    private final List<Timeout>[] wheel;
    private final Worker worker = new Worker();
    private final Thread workerThread = new Thread(worker);
    private volatile int workerState = 1;
    private volatile int ticks;

    @SuppressWarnings("unchecked")
    public HashedWheelTimer(int ticksPerWheel) {
        wheel = new List[ticksPerWheel];
        for (int i = 0; i < wheel.length; i++) {
            wheel[i] = new ArrayList<>();
        }
        workerThread.setDaemon(true);
        workerThread.start();
    }

    public Object newTimeout(TimerTask task, long delay, TimeUnit unit) {
        Timeout timeout = new Timeout(task, (System.nanoTime() - startTime + unit.toNanos(delay)) / tickDuration);
        added.add(timeout);
        return timeout;
    }

    /** Returns the number of ticks since the last call. */
    public int ticked() {
        int before = ticks;
        ticks = 0;
        return before;
    }
}
