package warmstart.hooks;

import java.util.ArrayList;
import java.util.List;

/** Callbacks of one phase, in a thread of their own, so that one that hangs can be reported. */
final class Phase {

    /** A phase's work. */
    interface Work {
        void run() throws Exception;
    }

    private static final int FRAMES = 4;

    private final String name;
    private final Work work;
    private volatile Throwable thrown;

    private Phase(String name, Work work) {
        this.name = name;
        this.work = work;
    }

    /**
     * Does the work, and throws what it threw.
     *
     * @throws PhaseException if it throws, or is not done within the limit
     */
    static void run(String name, double limitS, Work work) throws PhaseException, InterruptedException {
        Phase phase = new Phase(name, work);
        Thread thread = new Thread(null, phase::work, "warmstart-" + name);
        thread.setDaemon(true);
        thread.start();
        thread.join(Math.max(1, (long) (limitS * 1000)));
        if (thread.isAlive()) {
            throw new PhaseException(name + " is not done after " + limitS + " s" + whereabouts(thread), null);
        }
        if (phase.thrown != null) {
            throw new PhaseException(describe(phase.thrown), phase.thrown);
        }
    }

    private void work() {
        try {
            work.run();
        } catch (Throwable e) {
            thrown = e;
        }
    }

    private static String whereabouts(Thread thread) {
        List<String> frames = new ArrayList<>();
        for (StackTraceElement frame : thread.getStackTrace()) {
            if (frames.size() < FRAMES) {
                frames.add(frame.getClassName() + "." + frame.getMethodName());
            }
        }
        return ": at " + String.join(", called by ", frames);
    }

    /** Names what a context gathered, each with its class, message and resource. */
    private static String describe(Throwable thrown) {
        Throwable[] gathered = thrown.getSuppressed();
        if (gathered.length == 0) {
            return describeOne(thrown);
        }
        List<String> descriptions = new ArrayList<>();
        for (Throwable one : gathered) {
            descriptions.add(describeOne(one));
        }
        return String.join("; ", descriptions);
    }

    private static String describeOne(Throwable thrown) {
        for (StackTraceElement frame : thrown.getStackTrace()) {
            String method = frame.getMethodName();
            boolean callback = method.equals("beforeCheckpoint") || method.equals("afterRestore");
            if (callback && !frame.getClassName().equals("warmstart.crac.GlobalContext")) {
                return thrown + " (in " + frame.getClassName() + "." + method + ")";
            }
        }
        return thrown.toString();
    }
}
