package warmstart.hooks;

import java.lang.reflect.Field;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.ThreadPoolExecutor;

/** A HikariDataSource, through the methods that it offers for changes of a running pool. */
final class HikariPool implements Pools.Pool {

    static final String CLASS = "com/zaxxer/hikari/HikariDataSource";

    private static final String[] USUAL = {"spring.datasource.url", "spring.datasource.hikari.jdbc-url"};
    private static final long DO_NOT_WAIT = -1;

    private final SpringContext context;
    private final Object source;
    private final String urlProperty;
    private Integer minimumIdle;

    /**
     * Prepares it.
     *
     * @param context with the properties of its connections, or null
     * @param source the HikariDataSource
     */
    HikariPool(SpringContext context, Object source) throws ReflectiveOperationException {
        this.context = context;
        this.source = source;
        this.urlProperty = context == null ? null : findUrlProperty(context, (String) Internals.call(source, "getJdbcUrl"));
    }

    /** Returns the property with this URL, or null: applications choose the names of their own data sources. */
    private static String findUrlProperty(SpringContext context, String url) throws ReflectiveOperationException {
        List<String> names = new ArrayList<>(List.of(USUAL));
        for (String name : context.propertyNames()) {
            if (name.toLowerCase(Locale.ROOT).endsWith("url")) {
                names.add(name);
            }
        }
        for (String name : names) {
            if (url != null && url.equals(context.property(name))) {
                return name;
            }
        }
        return null;
    }

    @Override
    public void stopFilling() throws ReflectiveOperationException {
        if (pool() != null) {
            minimumIdle = (Integer) Internals.call(source, "getMinimumIdle");
            Internals.call(source, "setMinimumIdle", 0);
        }
    }

    @Override
    public int closeIdle() throws ReflectiveOperationException {
        Object pool = pool();
        if (pool == null) {
            return 0;
        }
        Internals.call(pool, "softEvictConnections");
        ThreadPoolExecutor closing = (ThreadPoolExecutor) Internals.get(pool, "closeConnectionExecutor");
        return (int) Internals.call(pool, "getTotalConnections") + closing.getQueue().size() + closing.getActiveCount();
    }

    @Override
    public String toString() {
        return source.toString();
    }

    /** Takes the URL, user name and password that the properties have now, and fills the pool as before. */
    @Override
    public void fillAgain() throws ReflectiveOperationException {
        Object pool = pool();
        String url = urlProperty == null ? null : context.property(urlProperty);
        if (url != null) {
            String prefix = urlProperty.substring(0, urlProperty.lastIndexOf('.') + 1);
            change("Username", context.property(prefix + "username"));
            change("Password", context.property(prefix + "password"));
        }
        if (minimumIdle != null) {
            Internals.call(source, "setMinimumIdle", minimumIdle);
        }
        if (url != null && !url.equals(Internals.call(source, "getJdbcUrl"))) {
            Internals.field(source.getClass(), "jdbcUrl").set(source, url);
            if (pool != null) {
                replace(pool);
            }
        } else if (pool != null) {
            Internals.call(pool, "softEvictConnections");
        }
    }

    private void change(String name, String value) throws ReflectiveOperationException {
        if (value != null && !value.equals(Internals.call(source, "get" + name))) {
            Internals.call(source, "set" + name, value);
        }
    }

    /** Makes a pool for another URL: a pool has one for life. The new one connects when it is asked. */
    private void replace(Object pool) throws ReflectiveOperationException {
        Field current = Internals.field(source.getClass(), "pool");
        Field patience = Internals.field(source.getClass(), "initializationFailTimeout");
        Class<?> config = pool.getClass().getClassLoader().loadClass("com.zaxxer.hikari.HikariConfig");
        Internals.call(pool, "shutdown");
        Object before = patience.get(source);
        patience.set(source, DO_NOT_WAIT);
        try {
            current.set(source, pool.getClass().getConstructor(config).newInstance(source));
        } finally {
            patience.set(source, before);
        }
    }

    /** Returns the running pool, or null if there is none yet. */
    private Object pool() throws ReflectiveOperationException {
        return Internals.call(source, "getHikariPoolMXBean");
    }
}
