package warmstart.hooks;

import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import warmstart.crac.Context;
import warmstart.crac.Resource;

/** HikariCP's pools in contexts of Spring: no connection is open at the checkpoint, and new ones go to the pod's database. */
final class SpringPools implements Resource {

    private static final String POOL = "com.zaxxer.hikari.HikariDataSource";

    private final List<SpringContext> contexts = new ArrayList<>();
    private final List<HikariPool> pools = new ArrayList<>();

    /** Finds the pools, and keeps them from opening connections in place of those that the application closes. */
    void find() {
        contexts.clear();
        pools.clear();
        try {
            contexts.addAll(SpringContext.all());
            for (SpringContext context : contexts) {
                for (Object pool : poolsOf(context)) {
                    pools.add(new HikariPool(context, pool));
                }
            }
            for (HikariPool pool : pools) {
                pool.stopFilling();
            }
        } catch (ReflectiveOperationException | RuntimeException e) {
            Log.line("hooks leave Spring's connection pools as they are: " + e);
        }
    }

    /** Returns the pools of a context, those behind other data sources too. */
    private static Set<Object> poolsOf(SpringContext context) throws ReflectiveOperationException {
        Set<Object> found = new LinkedHashSet<>();
        Class<?> hikari = context.find(POOL);
        Class<?> dataSource = context.find("javax.sql.DataSource");
        if (hikari != null && dataSource != null) {
            for (Object bean : context.beansOf(dataSource)) {
                if (hikari.isInstance(bean)) {
                    found.add(bean);
                } else if ((boolean) Internals.call(bean, "isWrapperFor", hikari)) {
                    found.add(Internals.call(bean, "unwrap", hikari));
                }
            }
        }
        return found;
    }

    @Override
    public void beforeCheckpoint(Context<? extends Resource> context) throws Exception {
        for (HikariPool pool : pools) {
            pool.closeConnections();
        }
    }

    @Override
    public void afterRestore(Context<? extends Resource> context) throws Exception {
        for (SpringContext spring : contexts) {
            spring.readAgain();
        }
        for (HikariPool pool : pools) {
            pool.bindAgain();
        }
        contexts.clear();
        pools.clear();
    }
}
