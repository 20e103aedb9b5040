package warmstart.hooks;

import java.io.File;
import java.lang.instrument.Instrumentation;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import warmstart.crac.Core;
import warmstart.crac.Resource;

/**
 * The agent's own resources. They are registered before those of the application, so they are the first after the
 * restore, and the last before the checkpoint.
 */
final class OwnHooks {

    private static final int REHEARSALS = 2;
    // Time to compile what a rehearsal ran often.
    private static final int COMPILED_MS = 100;
    private static final String KEEP = "WARMSTART_HOOKS_KEEP";

    // The context's references are weak.
    private final List<Resource> own = new ArrayList<>();
    private final File directory;
    private final Instrumentation instrumentation;
    private final Pools pools = new Pools(this::instances);
    private final SpringServers servers = new SpringServers("web-servers".equals(System.getenv(KEEP)));
    private Instances instances;

    OwnHooks(File directory, Instrumentation instrumentation) {
        this.directory = directory;
        this.instrumentation = instrumentation;
    }

    void register() {
        Internals.open(
                instrumentation,
                Object.class,
                "java.lang",
                "java.net",
                "java.security",
                "java.util",
                "java.util.concurrent",
                "sun.security.provider");
        String late = System.getenv("WARMSTART_HOOKS_LATE");
        if (late != null && !late.isEmpty()) {
            add("the environment", () -> new PodEnvironment(new File(directory.getParentFile(), "env"), late));
        }
        add("addresses of names", NameCache::new);
        add("random generators", () -> new Randomness(instances(), instrumentation));
        add("timers", () -> new Schedules(instances()));
        add("flags of the JVM", HeapLimit::new);
        add("connection pools", () -> pools);
        add("Spring's web servers", () -> servers);
        if (Core.CALLBACKS && Core.jdkCore() != null) {
            add("the JDK's own CRaC", () -> new JdkContext(Core.jdkCore()));
        }
    }

    /**
     * Does all before the checkpoint. What runs for the first time loads classes and links them: after a restore, each
     * pod would do that again. Twice, since HotSpot takes back some of the code of the application that it compiles then.
     * The application's own callbacks are not called for this.
     */
    void rehearse() {
        List<Resource> rehearsed = new ArrayList<>(own);
        rehearsed.removeIf(resource -> resource instanceof JdkContext);
        try {
            for (int times = 0; times < REHEARSALS; times++) {
                prepare();
                for (int i = rehearsed.size() - 1; i >= 0; i--) {
                    rehearsed.get(i).beforeCheckpoint(null);
                }
                for (Resource resource : rehearsed) {
                    resource.afterRestore(null);
                }
                Thread.sleep(COMPILED_MS);
            }
            if (Core.CALLBACKS) {
                servers.rehearse();
            }
        } catch (Exception | LinkageError e) {
            Log.line("hooks: not rehearsed: " + e);
        }
    }

    /** Does what must be done before the application's own callbacks. */
    void prepare() {
        try {
            pools.find();
        } catch (Exception | LinkageError e) {
            Log.line("hooks leave connection pools as they are: " + e);
        }
        try {
            if (Core.CALLBACKS) {
                servers.hide();
            }
        } catch (ReflectiveOperationException | RuntimeException e) {
            Log.line("hooks leave Spring's web servers as they are: " + e);
        }
    }

    /** Ends what serves the next checkpoint. */
    void close() {
        try {
            if (instances != null) {
                instances.close();
            }
        } catch (ReflectiveOperationException e) {
            Log.line("hooks: " + e);
        }
    }

    private Instances instances() throws Exception {
        if (instances == null) {
            instances = new Instances(instrumentation);
        }
        return instances;
    }

    /** Registers a resource; without it, a JDK of another kind is a reason for a line in the build's log. */
    private void add(String subject, Callable<Resource> maker) {
        try {
            Resource resource = maker.call();
            own.add(resource);
            Core.ownContext().register(resource);
        } catch (Exception | LinkageError e) {
            Log.line("hooks leave " + subject + " as they are on Java " + Runtime.version() + ": " + e);
        }
    }
}
