package warmstart.hooks;

import java.lang.ref.Reference;
import java.lang.ref.WeakReference;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Proxy;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import warmstart.crac.Core;
import warmstart.crac.Resource;

/** The beans and the Environment of a context of Spring, without a dependency on Spring. */
final class SpringContext {

    private static final String ADAPTER =
            "org.springframework.context.support.DefaultLifecycleProcessor$CracResourceAdapter";

    private final Object beans;
    private final Object environment;

    private SpringContext(Object beans) throws ReflectiveOperationException {
        this.beans = beans;
        this.environment = Internals.call(beans, "getBean", "environment");
    }

    /** Finds the contexts: Spring registers a resource for each. */
    static List<SpringContext> all() throws ReflectiveOperationException {
        List<SpringContext> contexts = new ArrayList<>();
        for (Resource resource : Core.resources()) {
            Object registered = unwrap(resource);
            if (registered != null && registered.getClass().getName().equals(ADAPTER)) {
                contexts.add(new SpringContext(Internals.get(Internals.get(registered, "this$0"), "beanFactory")));
            }
        }
        return contexts;
    }

    /** Returns the resource that an application registered: org.crac's proxy refers to it. */
    private static Object unwrap(Resource resource) {
        InvocationHandler handler = Proxy.isProxyClass(resource.getClass()) ? Proxy.getInvocationHandler(resource) : null;
        return handler instanceof WeakReference ? ((WeakReference<?>) handler).get() : resource;
    }

    /** Returns a class of the application, or null. */
    Class<?> find(String name) throws ReflectiveOperationException {
        try {
            return Class.forName(name, false, (ClassLoader) Internals.call(beans, "getBeanClassLoader"));
        } catch (ClassNotFoundException e) {
            return null;
        }
    }

    /** Returns the beans of a type that exist already, or can be made without their factories. */
    Collection<?> beansOf(Class<?> type) throws ReflectiveOperationException {
        return ((Map<?, ?>) Internals.call(beans, "getBeansOfType", type, false, false)).values();
    }

    /** Returns a property as the application gets it, or null. */
    String property(String name) {
        try {
            return (String) Internals.call(environment, "getProperty", name);
        } catch (ReflectiveOperationException e) {
            return null; // a placeholder without a value
        }
    }

    /** Returns the names of all properties whose sources list them. */
    Set<String> propertyNames() throws ReflectiveOperationException {
        Set<String> names = new LinkedHashSet<>();
        for (Object source : sources()) {
            if (Internals.hasMethod(source, "getPropertyNames")) {
                names.addAll(Arrays.asList((String[]) Internals.call(source, "getPropertyNames")));
            }
        }
        return names;
    }

    /** Makes variables of the environment and files of `configtree:` be read again: Spring Boot keeps their values. */
    void readAgain() throws ReflectiveOperationException {
        for (Object source : sources()) {
            String type = source.getClass().getSimpleName();
            if (type.equals("ConfigTreePropertySource")) {
                for (Object file : ((Map<?, ?>) Internals.get(source, "propertyFiles")).values()) {
                    forgetContent(Internals.get(file, "cachedContent"));
                }
            } else if (type.equals("ConfigurationPropertySourcesPropertySource")) {
                for (Object adapted : (Iterable<?>) Internals.call(source, "getSource")) {
                    forgetValues(adapted);
                }
            }
        }
    }

    private static void forgetContent(Object content) throws ReflectiveOperationException {
        if (content != null) {
            Internals.field(content.getClass(), "content").set(content, null);
        }
    }

    private static void forgetValues(Object adapted) throws ReflectiveOperationException {
        if (adapted.getClass().getSimpleName().equals("SpringIterableConfigurationPropertySource")) {
            Object values = Internals.get(Internals.get(adapted, "cache"), "value");
            if (values != null) {
                ((Reference<?>) values).clear();
            }
        }
    }

    private Iterable<?> sources() throws ReflectiveOperationException {
        return (Iterable<?>) Internals.call(environment, "getPropertySources");
    }
}
