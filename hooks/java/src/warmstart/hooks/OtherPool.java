package warmstart.hooks;

import java.util.Collection;
import java.util.concurrent.ExecutorService;

/** Agroal's data source, which Quarkus uses, or a pool of tomcat-jdbc, which opens connections only when it is asked. */
final class OtherPool implements Pools.Pool {

    static final String AGROAL = "io/agroal/pool/DataSource";
    static final String TOMCAT = "org/apache/tomcat/jdbc/pool/ConnectionPool";

    private final Object pool;
    private final Object agroal; // its configuration
    private Integer minimum;

    OtherPool(Object pool, boolean isAgroal) throws ReflectiveOperationException {
        this.pool = pool;
        agroal = isAgroal
                ? Internals.call(Internals.call(pool, "getConfiguration"), "connectionPoolConfiguration")
                : null;
    }

    @Override
    public void stopFilling() throws ReflectiveOperationException {
        if (agroal != null) {
            minimum = (Integer) Internals.call(agroal, "minSize");
            Internals.call(agroal, "setMinSize", 0);
        }
    }

    @Override
    public int closeIdle() throws Exception {
        if (agroal == null) {
            Internals.call(pool, "purge");
            return (int) Internals.call(pool, "getSize");
        }
        Object connections = Internals.get(pool, "connectionPool");
        ExecutorService housekeeping = (ExecutorService) Internals.get(connections, "housekeepingExecutor");
        // Connections that it is about to open are open the second time.
        for (int i = 0; i < 2; i++) {
            flush("GRACEFUL");
            housekeeping.submit(() -> {}).get();
        }
        return ((Collection<?>) Internals.get(connections, "allConnections")).size();
    }

    @Override
    public void fillAgain() throws ReflectiveOperationException {
        if (minimum != null) {
            Internals.call(agroal, "setMinSize", minimum);
            flush("FILL");
        }
    }

    @Override
    public String toString() {
        return pool.toString();
    }

    private void flush(String mode) throws ReflectiveOperationException {
        Class<?> modes = pool.getClass().getClassLoader().loadClass("io.agroal.api.AgroalDataSource$FlushMode");
        Internals.call(pool, "flush", Internals.getStatic(modes, mode));
    }
}
