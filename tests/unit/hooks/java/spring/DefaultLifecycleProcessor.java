package org.springframework.context.support;

import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Set;
import org.crac.Context;
import org.crac.Core;
import org.crac.Resource;
import org.springframework.context.SmartLifecycle;

/** What Spring does at a checkpoint: it stops the beans that run, and starts them after the restore. */
public class DefaultLifecycleProcessor {

    private final Beans beanFactory;
    private final Set<SmartLifecycle> stopped = new LinkedHashSet<>();
    private final CracResourceAdapter adapter = new CracResourceAdapter();

    public DefaultLifecycleProcessor(Beans beans) {
        beanFactory = beans;
        Core.getGlobalContext().register(adapter);
    }

    /** As much of a bean factory as the agent asks for. */
    public static class Beans {
        private final Map<String, SmartLifecycle> beans = new LinkedHashMap<>();

        public void add(SmartLifecycle bean) {
            beans.put(bean.getClass().getName(), bean);
        }

        public Object getBean(String name) {
            return new Environment();
        }

        public ClassLoader getBeanClassLoader() {
            return getClass().getClassLoader();
        }

        public Map<String, ?> getBeansOfType(Class<?> type, boolean prototypes, boolean eager) {
            return type == SmartLifecycle.class ? beans : Map.of();
        }
    }

    /** An environment without properties. */
    public static class Environment {
        public Iterable<Object> getPropertySources() {
            return Set.of();
        }
    }

    private class CracResourceAdapter implements Resource {
        public void beforeCheckpoint(Context<? extends Resource> context) {
            for (SmartLifecycle bean : beanFactory.beans.values()) {
                if (bean.isRunning()) {
                    stopped.add(bean);
                    bean.stop();
                }
            }
        }

        public void afterRestore(Context<? extends Resource> context) {
            stopped.forEach(SmartLifecycle::start);
        }
    }
}
