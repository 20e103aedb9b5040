package warmstart.hooks;

import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.lang.instrument.Instrumentation;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.security.SecureRandom;
import java.security.SecureRandomSpi;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.SplittableRandom;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicLong;
import warmstart.crac.Context;
import warmstart.crac.Resource;

/**
 * Seeds random generators again: else all that are restored from an image draw the same numbers. Generators that an
 * application made with a seed of its own stay as they are.
 */
final class Randomness implements Resource {

    private static final String SOURCE = "/dev/urandom";
    private static final int SEED_BYTES = 32;
    private static final int SEEDERS = 3; // always there

    private final Instances instances;
    private final Instrumentation instrumentation;
    private final Field randomSeed = Internals.field(Random.class, "seed");
    private final Field randomGaussian = Internals.field(Random.class, "haveNextNextGaussian");
    private final Field splittableSeed = Internals.field(SplittableRandom.class, "seed");
    private final Field threadSeed = Internals.field(Thread.class, "threadLocalRandomSeed");
    private final Field threadSecondarySeed = Internals.field(Thread.class, "threadLocalRandomSecondarySeed");
    private final List<AtomicLong> seeders = new ArrayList<>();
    private final List<Object> buffers = new ArrayList<>();
    private final Method setSeed =
            Internals.accessible(SecureRandomSpi.class.getDeclaredMethod("engineSetSeed", byte[].class));
    private SecureRandomSpi sha1Seeder; // seeds each new SHA1PRNG

    Randomness(Instances instances, Instrumentation instrumentation) throws ReflectiveOperationException {
        this.instances = instances;
        this.instrumentation = instrumentation;
        seeders.add((AtomicLong) Internals.getStatic(Random.class, "seedUniquifier"));
        seeders.add((AtomicLong) Internals.getStatic(SplittableRandom.class, "defaultGen"));
        seeders.add((AtomicLong) Internals.getStatic(ThreadLocalRandom.class, "seeder"));
    }

    @Override
    public void beforeCheckpoint(Context<? extends Resource> context) throws ReflectiveOperationException {
        for (Class<?> loaded : instrumentation.getAllLoadedClasses()) {
            String name = loaded.getName();
            if (name.startsWith("jdk.random.") && name.endsWith("Random")) {
                Internals.open(instrumentation, loaded, "jdk.random");
                seeders.add((AtomicLong) Internals.getStatic(loaded, "defaultGen"));
            } else if (name.startsWith("sun.security.provider.NativePRNG") && !name.endsWith("RandomIO")) {
                addBuffer(loaded);
            } else if (name.equals("sun.security.provider.SecureRandom$SeederHolder")) {
                sha1Seeder = (SecureRandomSpi) Internals.getStatic(loaded, "seeder");
            }
        }
    }

    /** Adds random bytes that were read ahead. */
    private void addBuffer(Class<?> generator) throws ReflectiveOperationException {
        try {
            Object buffer = Internals.getStatic(generator, "INSTANCE");
            if (buffer != null) {
                buffers.add(buffer);
            }
        } catch (NoSuchFieldException e) {
            // Another class of this name: it has none.
        }
    }

    @Override
    public void afterRestore(Context<? extends Resource> context) throws IOException, ReflectiveOperationException {
        try (InputStream source = new FileInputStream(SOURCE)) {
            for (AtomicLong seeder : seeders) {
                seeder.set(nextLong(source));
            }
            for (Object buffer : buffers) {
                Internals.field(buffer.getClass(), "buffered").setInt(buffer, 0);
            }
            if (sha1Seeder != null) {
                setSeed.invoke(sha1Seeder, (Object) source.readNBytes(SEED_BYTES));
            }
            for (Thread thread : Threads.all()) {
                threadSeed.setLong(thread, nextLong(source));
                threadSecondarySeed.setInt(thread, (int) nextLong(source) | 1);
            }
            for (Random random : instances.of(Random.class)) {
                seed(random, source);
            }
            for (SplittableRandom random : instances.of(SplittableRandom.class)) {
                splittableSeed.setLong(random, nextLong(source));
            }
        }
        seeders.subList(SEEDERS, seeders.size()).clear();
        buffers.clear();
    }

    private void seed(Random random, InputStream source) throws IOException, ReflectiveOperationException {
        if (random instanceof SecureRandom) {
            SecureRandom secure = (SecureRandom) random;
            // Those of the operating system have no state.
            if (!secure.getAlgorithm().startsWith("NativePRNG")) {
                secure.setSeed(source.readNBytes(SEED_BYTES));
            }
        } else if (randomSeed.get(random) != null) {
            ((AtomicLong) randomSeed.get(random)).set(nextLong(source) >>> 16);
            randomGaussian.setBoolean(random, false);
        }
    }

    private static long nextLong(InputStream source) throws IOException {
        return ByteBuffer.wrap(source.readNBytes(Long.BYTES)).getLong();
    }
}
