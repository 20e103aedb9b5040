import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import warmstart.crac.Core;

/** Has periodic tasks that are seldom in their queues, and calls the agent's own resources as a checkpoint does. */
public class Schedules {

    static final int ROUNDS = 200;
    static final int THREADS = 4;
    static final int PERIOD_US = 20;
    static final int AWAY_MS = 500;

    static final AtomicInteger RUNS = new AtomicInteger();
    static final Semaphore GATE = new Semaphore(0);

    public static void main(String[] arguments) throws Exception {
        runShort();
        runLong();
        System.exit(0);
    }

    /** Prints how often tasks ran between the checkpoint and the restore. */
    static void runShort() throws Exception {
        ScheduledExecutorService executor = Executors.newScheduledThreadPool(THREADS);
        for (int i = 0; i < THREADS; i++) {
            executor.scheduleAtFixedRate(RUNS::incrementAndGet, 0, PERIOD_US, TimeUnit.MICROSECONDS);
        }
        int late = 0;
        for (int i = 0; i < ROUNDS; i++) {
            Core.ownContext().beforeCheckpoint(null);
            int before = RUNS.get();
            Thread.sleep(1);
            late += RUNS.get() == before ? 0 : 1;
            Core.ownContext().afterRestore(null);
        }
        executor.shutdownNow();
        executor.awaitTermination(1, TimeUnit.MINUTES);
        System.out.println(late + " late");
    }

    /**
     * Prints how often a task ran that was running from before the checkpoint until after the restore, and in which time,
     * without that in between. Before the checkpoint it was late, too.
     */
    static void runLong() throws Exception {
        AtomicInteger runs = new AtomicInteger();
        long begun = System.nanoTime();
        Executors.newScheduledThreadPool(1).scheduleAtFixedRate(() -> {
            GATE.acquireUninterruptibly();
            runs.incrementAndGet();
        }, 0, 1, TimeUnit.MILLISECONDS);
        Core.ownContext().beforeCheckpoint(null);
        long before = System.nanoTime() - begun;
        Thread.sleep(AWAY_MS);
        long restored = System.nanoTime();
        Core.ownContext().afterRestore(null);
        GATE.release(Integer.MAX_VALUE);
        Thread.sleep(50);
        int counted = runs.get();
        System.out.println(counted + " in " + TimeUnit.NANOSECONDS.toMillis(before + System.nanoTime() - restored));
    }
}
