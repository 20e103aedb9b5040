package warmstart.hooks;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import warmstart.crac.Context;
import warmstart.crac.Resource;

/** The global context of a JDK that has CRaC: applications are registered there. */
final class JdkContext implements Resource {

    private final Object context;
    private final Method before;
    private final Method after;

    JdkContext(Class<?> core) throws ReflectiveOperationException {
        context = core.getMethod("getGlobalContext").invoke(null);
        Class<?> type = Class.forName("jdk.crac.Context", true, null);
        before = type.getMethod("beforeCheckpoint", type);
        after = type.getMethod("afterRestore", type);
    }

    @Override
    public void beforeCheckpoint(Context<? extends Resource> ours) throws Exception {
        call(before);
    }

    @Override
    public void afterRestore(Context<? extends Resource> ours) throws Exception {
        call(after);
    }

    private void call(Method method) throws Exception {
        try {
            method.invoke(context, (Object) null);
        } catch (InvocationTargetException e) {
            throw e.getCause() instanceof Exception ? (Exception) e.getCause() : e;
        }
    }
}
