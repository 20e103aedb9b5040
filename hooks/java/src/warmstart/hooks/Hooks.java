package warmstart.hooks;

import java.io.File;
import java.lang.instrument.Instrumentation;
import warmstart.crac.Context;
import warmstart.crac.Core;
import warmstart.crac.Resource;

/** The protocol with the build and the launcher (docs/hooks.md), in a thread that exists only during a build. */
public final class Hooks implements Runnable {

    private static final int BROKEN = 70;
    // After a failure: the build holds the FIFO open until it has read of it.
    private static final int PAUSE_MS = 1000;
    private static final String LIMIT = "WARMSTART_HOOKS_LIMIT";
    private static final double DEFAULT_LIMIT_S = 30;

    private final Fifos fifos;
    private final OwnHooks own;
    private final double limitS;
    private final Context<Resource> callbacks = Core.ownContext();
    // Made now, so that nothing of it is new after a restore.
    private final Phase.Work afterRestore = () -> callbacks.afterRestore(null);
    private volatile Cycle cycle = new Cycle();

    private Hooks(File directory, Instrumentation instrumentation, double limitS) {
        this.fifos = new Fifos(directory);
        this.own = new OwnHooks(directory, instrumentation);
        this.limitS = limitS;
    }

    /** Registers this process with the build. */
    public static void start(File directory, Instrumentation instrumentation) {
        Hooks hooks = new Hooks(directory, instrumentation, limit(System.getenv(LIMIT)));
        hooks.fifos.reply(new Message("registered").with("runtime", "java " + Runtime.version()));
        Core.serve(hooks::checkpointRestore);
        hooks.own.register();
        Thread thread = new Thread(null, hooks, "warmstart-hooks");
        thread.setDaemon(true);
        thread.start();
    }

    private static double limit(String value) {
        try {
            return value == null ? DEFAULT_LIMIT_S : Double.parseDouble(value);
        } catch (NumberFormatException e) {
            Log.line(LIMIT + " is not a number: " + value);
            return DEFAULT_LIMIT_S;
        }
    }

    /** The application asks for the checkpoint: it is ready, and this returns after the restore. */
    private void checkpointRestore() throws warmstart.crac.CheckpointException, warmstart.crac.RestoreException {
        Cycle current = cycle;
        fifos.reply(new Message("ready"));
        current.await();
    }

    @Override
    public void run() {
        try {
            while (fifos.awaitCheckpoint()) {
                if (!runCycle()) {
                    Thread.sleep(PAUSE_MS);
                }
                cycle = new Cycle();
            }
            own.close();
        } catch (InterruptedException e) {
            Log.line("hooks: interrupted");
        }
    }

    /** Returns whether nothing failed. */
    private boolean runCycle() throws InterruptedException {
        rehearse();
        PhaseException before = runPhase("beforeCheckpoint", "checkpoint", this::beforeCheckpoint);
        if (before != null && before.getCause() == null) {
            // It hangs: what it holds is not ready to be notified of a restore.
            cycle.end(before, null);
            return false;
        }
        // A checkpoint that was refused is over at once, as org.crac's documentation has it.
        boolean givenUp = before != null || fifos.awaitRestored();
        PhaseException after = runPhase("afterRestore", "restored", afterRestore);
        if (after != null && !givenUp) {
            Log.line("after-restore hook failed: " + after.getMessage());
            Runtime.getRuntime().halt(BROKEN);
        }
        cycle.end(before, after);
        return before == null && after == null;
    }

    /** In the thread of a phase too, whose code is then loaded; but it takes nothing of the application's time. */
    private void rehearse() throws InterruptedException {
        try {
            Phase.run("rehearsal", limitS, own::rehearse);
        } catch (PhaseException e) {
            Log.line("hooks: " + e.getMessage());
        }
    }

    private void beforeCheckpoint() throws warmstart.crac.CheckpointException {
        own.prepare();
        callbacks.beforeCheckpoint(null);
    }

    /** Runs a phase, and reports it; returns its failure. */
    private PhaseException runPhase(String name, String event, Phase.Work work) throws InterruptedException {
        long begin = System.nanoTime();
        try {
            Phase.run(name, limitS, work);
        } catch (PhaseException e) {
            fifos.reply(new Message("failed").with("phase", name).with("error", e.getMessage()));
            return e;
        }
        fifos.reply(new Message(event).with("seconds", System.nanoTime() - begin));
        return null;
    }
}
