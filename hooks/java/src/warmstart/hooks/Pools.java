package warmstart.hooks;

import java.util.ArrayList;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import warmstart.crac.Context;
import warmstart.crac.Resource;

/** Pools of connections: none is open at the checkpoint. New ones of Spring's pools go to the pod's database. */
final class Pools implements Resource {

    /** A pool. */
    interface Pool {
        /** Keeps the pool from opening connections in place of those that are closed. */
        void stopFilling() throws ReflectiveOperationException;

        /** Closes idle connections, and those in use when they come back; returns the number of those that are open. */
        int closeIdle() throws Exception;

        /** Fills the pool as before. */
        void fillAgain() throws ReflectiveOperationException;
    }

    private static final long PATIENCE_NS = TimeUnit.SECONDS.toNanos(3);
    private static final long PAUSE_MS = 5;

    private final Callable<Instances> instances;

    private final List<SpringContext> contexts = new ArrayList<>();
    private final List<Pool> pools = new ArrayList<>();

    /**
     * Prepares it.
     *
     * @param instances returns the objects of libraries
     */
    Pools(Callable<Instances> instances) {
        this.instances = instances;
    }

    /** Finds the pools, and keeps them from opening connections in place of those that the application closes. */
    void find() throws Exception {
        contexts.clear();
        pools.clear();
        contexts.addAll(SpringContext.all());
        Set<Object> known = Collections.newSetFromMap(new IdentityHashMap<>());
        for (SpringContext context : contexts) {
            for (Object source : poolsOf(context)) {
                if (known.add(source)) {
                    pools.add(new HikariPool(context, source));
                }
            }
        }
        addOthers(known);
        for (Pool pool : pools) {
            pool.stopFilling();
        }
    }

    private void addOthers(Set<Object> known) throws Exception {
        for (Object source : instances.call().named(HikariPool.CLASS)) {
            if (known.add(source)) {
                pools.add(new HikariPool(null, source));
            }
        }
        for (String type : List.of(OtherPool.AGROAL, OtherPool.TOMCAT)) {
            for (Object pool : instances.call().named(type)) {
                pools.add(new OtherPool(pool, type.equals(OtherPool.AGROAL)));
            }
        }
    }

    /** Returns the pools of a context, those behind other data sources too. */
    private static Set<Object> poolsOf(SpringContext context) throws ReflectiveOperationException {
        Set<Object> found = new LinkedHashSet<>();
        Class<?> hikari = context.find(HikariPool.CLASS.replace('/', '.'));
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
        long end = System.nanoTime() + PATIENCE_NS;
        while (closeIdle(false) > 0 && System.nanoTime() < end) {
            Thread.sleep(PAUSE_MS);
        }
        closeIdle(true);
    }

    /** Closes connections of all pools; returns the number of those that are open. */
    private int closeIdle(boolean last) throws InterruptedException {
        int total = 0;
        for (Pool pool : pools) {
            try {
                int open = pool.closeIdle();
                total += open;
                if (last && open > 0) {
                    Log.line("hooks: " + open + " connections of " + pool + " are in use at the checkpoint");
                }
            } catch (InterruptedException e) {
                throw e;
            } catch (Exception e) {
                if (last) {
                    Log.line("hooks leave connections of " + pool + " open: " + e);
                }
            }
        }
        return total;
    }

    @Override
    public void afterRestore(Context<? extends Resource> context) throws Exception {
        for (SpringContext spring : contexts) {
            spring.readAgain();
        }
        for (Pool pool : pools) {
            pool.fillAgain();
        }
        contexts.clear();
        pools.clear();
    }
}
