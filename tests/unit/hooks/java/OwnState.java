import com.sun.management.HotSpotDiagnosticMXBean;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.ObjectInputStream;
import java.io.ObjectOutputStream;
import java.lang.management.ManagementFactory;
import java.lang.reflect.AccessibleObject;
import java.lang.reflect.Constructor;
import java.lang.reflect.Field;
import java.net.InetAddress;
import java.security.SecureRandom;
import java.util.Arrays;
import java.util.Map;
import java.util.Random;
import java.util.SplittableRandom;
import java.util.TimeZone;
import java.util.Timer;
import java.util.TimerTask;
import java.util.UUID;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Keeps state of the JDK that a restore makes stale. At the line "remember" it copies its generators, as a checkpoint
 * does; at "compare" it says for each whether it draws as its copy.
 */
public class OwnState {

    static final Random RANDOM = new Random();
    static final Random CHOSEN = new Random(42);
    static final SplittableRandom SPLITTABLE = new SplittableRandom();
    static final Map<String, String> ENVIRONMENT = System.getenv();

    static SecureRandom sha1;
    static SecureRandom drbg;
    static Random copyOfRandom;
    static Random copyOfChosen;
    static Random copyOfMath;
    static SplittableRandom copyOfSplittable;
    static SecureRandom copyOfSha1;
    static byte[] drbgState;
    static byte[] sha1Seeder;
    static long threadSeed;
    static long[] seeders;

    static final AtomicInteger RATE = new AtomicInteger();
    static final AtomicInteger DELAY = new AtomicInteger();
    static final AtomicInteger WRAPPED = new AtomicInteger();
    static final AtomicInteger TIMER = new AtomicInteger();
    static final AtomicInteger ONCE = new AtomicInteger();

    public static void main(String[] arguments) throws Exception {
        sha1 = SecureRandom.getInstance("SHA1PRNG");
        sha1.nextInt();
        drbg = SecureRandom.getInstance("DRBG");
        drbg.nextInt();
        UUID.randomUUID();
        RANDOM.nextGaussian();
        Math.random();
        ThreadLocalRandom.current().nextInt();
        InetAddress.getByName("localhost");
        InetAddress.getLocalHost();
        schedule();
        System.out.println("running");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            switch (line) {
                case "remember":
                    remember();
                    break;
                case "compare":
                    compare();
                    break;
                case "ticks":
                    ticks();
                    break;
                case "flag":
                    System.out.println(flag());
                    break;
                case "zone":
                    System.out.println(TimeZone.getDefault().getID());
                    break;
                default:
                    System.out.println(line + "=" + System.getenv(line) + " " + ENVIRONMENT.get(line));
            }
        }
    }

    static void schedule() {
        ScheduledExecutorService executor = Executors.newScheduledThreadPool(2);
        executor.scheduleAtFixedRate(RATE::incrementAndGet, 0, 10, TimeUnit.MILLISECONDS);
        executor.scheduleWithFixedDelay(DELAY::incrementAndGet, 0, 10, TimeUnit.MILLISECONDS);
        executor.schedule(ONCE::incrementAndGet, 1, TimeUnit.HOURS);
        // Threads that hide their executor behind a runnable of their own.
        new ScheduledThreadPoolExecutor(1, runnable -> new Thread(() -> runnable.run()))
                .scheduleAtFixedRate(WRAPPED::incrementAndGet, 0, 10, TimeUnit.MILLISECONDS);
        new Timer(true).scheduleAtFixedRate(new TimerTask() {
            public void run() {
                TIMER.incrementAndGet();
            }
        }, 0, 10);
    }

    static void remember() throws Exception {
        System.gc(); // nobody refers to the Timer: its tasks go on
        copyOfRandom = copy(RANDOM);
        copyOfChosen = copy(CHOSEN);
        copyOfMath = copy((Random) read(Class.forName("java.lang.Math$RandomNumberGeneratorHolder"), null,
                "randomNumberGenerator"));
        Constructor<SplittableRandom> constructor =
                SplittableRandom.class.getDeclaredConstructor(long.class, long.class);
        copyOfSplittable = accessible(constructor).newInstance(
                read(SplittableRandom.class, SPLITTABLE, "seed"), read(SplittableRandom.class, SPLITTABLE, "gamma"));
        copyOfSha1 = copy(sha1);
        drbgState = drbgState();
        sha1Seeder = sha1Seeder();
        threadSeed = (long) read(Thread.class, Thread.currentThread(), "threadLocalRandomSeed");
        seeders = seeders();
        System.out.println("remembered");
    }

    static void compare() throws Exception {
        report("Random", RANDOM.nextLong() == copyOfRandom.nextLong());
        report("Random.nextGaussian", RANDOM.nextGaussian() == copyOfRandom.nextGaussian());
        report("Random(42)", CHOSEN.nextLong() == copyOfChosen.nextLong());
        report("Math.random", Math.random() == copyOfMath.nextDouble());
        report("SplittableRandom", SPLITTABLE.nextLong() == copyOfSplittable.nextLong());
        report("SHA1PRNG", sha1.nextLong() == copyOfSha1.nextLong());
        report("DRBG", Arrays.equals(drbgState(), drbgState));
        report("new SHA1PRNG", Arrays.equals(sha1Seeder(), sha1Seeder));
        report("ThreadLocalRandom",
                (long) read(Thread.class, Thread.currentThread(), "threadLocalRandomSeed") == threadSeed);
        long[] now = seeders();
        report("new Random", now[0] == seeders[0]);
        report("new SplittableRandom", now[1] == seeders[1]);
        report("new ThreadLocalRandom", now[2] == seeders[2]);
        report("InetAddress", !((Map<?, ?>) read(InetAddress.class, null, "cache")).isEmpty());
        report("InetAddress.getLocalHost", read(InetAddress.class, null, "cachedLocalHost") != null);
        report("UUID", (int) read(null, read(Class.forName("sun.security.provider.NativePRNG"), null, "INSTANCE"),
                "buffered") != 0);
        System.out.println("compared");
    }

    static void report(String name, boolean same) {
        System.out.println((same ? "same " : "other ") + name);
    }

    /** Prints, half a second later, how often each task ran since it was asked last. */
    static void ticks() throws Exception {
        Thread.sleep(500);
        StringBuilder line = new StringBuilder();
        for (AtomicInteger counter : new AtomicInteger[] {RATE, DELAY, WRAPPED, TIMER, ONCE}) {
            line.append(counter.getAndSet(0)).append(' ');
        }
        System.out.println(line.toString().trim());
    }

    static byte[] drbgState() throws Exception {
        Object spi = read(SecureRandom.class, drbg, "secureRandomSpi");
        return ((byte[]) read(null, read(null, spi, "impl"), "v")).clone();
    }

    static byte[] sha1Seeder() throws Exception {
        Object seeder = read(Class.forName("sun.security.provider.SecureRandom$SeederHolder"), null, "seeder");
        return ((byte[]) read(null, seeder, "state")).clone();
    }

    static long[] seeders() throws Exception {
        return new long[] {
            ((AtomicLong) read(Random.class, null, "seedUniquifier")).get(),
            ((AtomicLong) read(SplittableRandom.class, null, "defaultGen")).get(),
            ((AtomicLong) read(ThreadLocalRandom.class, null, "seeder")).get(),
        };
    }

    static Object read(Class<?> type, Object object, String name) throws Exception {
        for (Class<?> owner = type == null ? object.getClass() : type; owner != null; owner = owner.getSuperclass()) {
            for (Field field : owner.getDeclaredFields()) {
                if (field.getName().equals(name)) {
                    return accessible(field).get(object);
                }
            }
        }
        throw new NoSuchFieldException(name);
    }

    static <T extends AccessibleObject> T accessible(T member) {
        member.setAccessible(true);
        return member;
    }

    @SuppressWarnings("unchecked")
    static <T> T copy(T object) throws Exception {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        new ObjectOutputStream(bytes).writeObject(object);
        return (T) new ObjectInputStream(new ByteArrayInputStream(bytes.toByteArray())).readObject();
    }

    /** A flag that a running JVM can set. */
    static String flag() {
        return ManagementFactory.getPlatformMXBean(HotSpotDiagnosticMXBean.class)
                .getVMOption("MinHeapFreeRatio")
                .getValue();
    }
}
