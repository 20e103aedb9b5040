import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.List;
import org.crac.CheckpointException;
import org.crac.Context;
import org.crac.Core;
import org.crac.Resource;
import org.crac.RestoreException;

/** Registers resources, and prints when they are called. Arguments: NAME.PHASE=throw|hang|check, and "ask". */
public class Callbacks {

    static final List<Object> KEPT = new ArrayList<>();
    static List<String> arguments;

    static class Printing implements Resource {
        final String name;

        Printing(String name) {
            this.name = name;
        }

        public void beforeCheckpoint(Context<? extends Resource> context) throws Exception {
            called("before");
        }

        public void afterRestore(Context<? extends Resource> context) throws Exception {
            called("after");
        }

        void called(String phase) throws Exception {
            System.out.println(phase + " " + name);
            if (arguments.contains(name + "." + phase + "=throw")) {
                throw new IllegalStateException(name + " is \"busy\"\u00e4\n");
            }
            if (arguments.contains(name + "." + phase + "=hang")) {
                Thread.sleep(1000_000);
            }
        }
    }

    /** A context of an application: its own order, and exceptions of its own. */
    static class Nested extends Context<Resource> {
        final List<Resource> inner = new ArrayList<>();

        public void register(Resource resource) {
            inner.add(resource);
        }

        public void beforeCheckpoint(Context<? extends Resource> context) throws CheckpointException {
            CheckpointException failure = new CheckpointException("of the context");
            for (Resource resource : inner) {
                try {
                    resource.beforeCheckpoint(this);
                } catch (Exception e) {
                    failure.addSuppressed(e);
                }
            }
            if (failure.getSuppressed().length > 0) {
                throw failure;
            }
        }

        public void afterRestore(Context<? extends Resource> context) throws RestoreException {
            for (Resource resource : inner) {
                try {
                    resource.afterRestore(this);
                } catch (Exception e) {
                    RestoreException failure = new RestoreException();
                    failure.addSuppressed(e);
                    throw failure;
                }
            }
        }
    }

    public static void main(String[] given) throws Exception {
        arguments = List.of(given);
        register(new Printing("a"));
        Nested nested = new Nested();
        nested.register(new Printing("n1"));
        nested.register(new Printing("n2"));
        register(nested);
        Core.getGlobalContext().register(new Printing("collected"));
        register(new Printing("b"));
        System.gc();
        if (arguments.contains("ask")) {
            System.out.println("asking");
            try {
                Core.checkpointRestore();
                System.out.println("returned");
            } catch (CheckpointException | RestoreException e) {
                System.out.println(e.getClass().getName());
                for (Throwable one : e.getSuppressed()) {
                    System.out.println("suppressed " + one.getClass().getName());
                }
            }
        }
        System.out.println("running");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        while (in.readLine() != null) {}
        int threads = 0;
        for (Thread thread : Thread.getAllStackTraces().keySet()) {
            if (thread.getName().startsWith("warmstart")) {
                thread.join(1000);
                threads += thread.isAlive() ? 1 : 0;
            }
        }
        System.out.println("threads " + threads);
    }

    static void register(Resource resource) {
        KEPT.add(resource);
        Core.getGlobalContext().register(resource);
    }
}
