package warmstart.hooks;

import java.util.ArrayList;
import java.util.List;
import warmstart.crac.Context;
import warmstart.crac.Resource;

/**
 * Web servers in contexts of Spring. Spring stops them before a checkpoint and starts them after the restore. The restore
 * brings back listening sockets, so that is only needed where clients must not be served before the hooks have ended.
 */
final class SpringServers implements Resource {

    private static final String LIFECYCLE = "org.springframework.context.SmartLifecycle";
    private static final String START_STOP = "WebServerStartStopLifecycle";
    private static final String GRACEFUL_SHUTDOWN = "WebServerGracefulShutdownLifecycle";

    private final boolean keep;
    private final List<Object> hidden = new ArrayList<>();

    /**
     * Prepares it.
     *
     * @param keep whether web servers go on listening
     */
    SpringServers(boolean keep) {
        this.keep = keep;
    }

    /** Makes Spring believe, until the end of its callbacks, that the servers are stopped already. */
    void hide() throws ReflectiveOperationException {
        for (Object lifecycle : keep ? find(START_STOP, GRACEFUL_SHUTDOWN) : List.of()) {
            Internals.field(lifecycle.getClass(), "running").setBoolean(lifecycle, false);
            hidden.add(lifecycle);
        }
    }

    @Override
    public void beforeCheckpoint(Context<? extends Resource> context) throws ReflectiveOperationException {
        for (Object lifecycle : hidden) {
            Internals.field(lifecycle.getClass(), "running").setBoolean(lifecycle, true);
        }
        hidden.clear();
    }

    @Override
    public void afterRestore(Context<? extends Resource> context) {}

    /** Stops and starts them as Spring will. */
    void rehearse() throws ReflectiveOperationException {
        for (Object lifecycle : keep ? List.of() : find(START_STOP)) {
            Internals.call(lifecycle, "stop");
            Internals.call(lifecycle, "start");
        }
    }

    /** Returns the running beans of Spring Boot's classes with these simple names; 3.x and 4.x have them in other packages. */
    private static List<Object> find(String... names) throws ReflectiveOperationException {
        List<Object> found = new ArrayList<>();
        for (SpringContext spring : SpringContext.all()) {
            for (Object bean : spring.beansOf(spring.find(LIFECYCLE))) {
                if (List.of(names).contains(bean.getClass().getSimpleName())
                        && (boolean) Internals.call(bean, "isRunning")) {
                    found.add(bean);
                }
            }
        }
        return found;
    }
}
