package warmstart.hooks;

import java.lang.reflect.Field;
import java.net.InetAddress;
import java.util.Collection;
import java.util.Map;
import warmstart.crac.Context;
import warmstart.crac.Resource;

/** Addresses of host names, and of this host, are looked up anew: those of the build are others' now. */
final class NameCache implements Resource {

    private final Map<?, ?> addresses;
    private final Collection<?> expiring;
    private final Field localHost;

    NameCache() throws ReflectiveOperationException {
        addresses = (Map<?, ?>) Internals.getStatic(InetAddress.class, "cache");
        expiring = (Collection<?>) Internals.getStatic(InetAddress.class, "expirySet");
        localHost = Internals.field(InetAddress.class, "cachedLocalHost");
    }

    @Override
    public void beforeCheckpoint(Context<? extends Resource> context) {}

    @Override
    public void afterRestore(Context<? extends Resource> context) throws ReflectiveOperationException {
        addresses.clear();
        expiring.clear();
        localHost.set(null, null);
    }
}
