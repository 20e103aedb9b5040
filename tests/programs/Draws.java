import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;
import java.util.Map;
import java.util.Random;
import java.util.SplittableRandom;
import java.util.TreeMap;
import java.util.concurrent.Executors;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.crac.Context;
import org.crac.Core;
import org.crac.Resource;

/** Answers with a number from each generator of the JDK, and with what it knows of its life. */
public class Draws implements Resource {

    static final Random RANDOM = new Random();
    static final Random CHOSEN = new Random(42);
    static final SplittableRandom SPLITTABLE = new SplittableRandom();
    static final AtomicInteger TICKS = new AtomicInteger();
    static final StringBuilder LIFE = new StringBuilder();
    static SecureRandom sha1;
    static SecureRandom drbg;
    static long restoredAt;
    static int ticksBefore;

    public static void main(String[] arguments) throws Exception {
        sha1 = SecureRandom.getInstance("SHA1PRNG");
        drbg = SecureRandom.getInstance("DRBG");
        Resource kept = new Draws();
        Core.getGlobalContext().register(kept);
        Executors.newScheduledThreadPool(1)
                .scheduleAtFixedRate(TICKS::incrementAndGet, 0, 10, TimeUnit.MILLISECONDS);
        HttpServer server = HttpServer.create(new InetSocketAddress(8080), 0);
        server.createContext("/", exchange -> {
            exchange.getResponseHeaders().set("Connection", "close");
            byte[] body = draw().getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
        synchronized (kept) {
            kept.wait();
        }
    }

    @Override
    public void beforeCheckpoint(Context<? extends Resource> context) {
        LIFE.append("before ");
        ticksBefore = TICKS.get();
    }

    @Override
    public void afterRestore(Context<? extends Resource> context) {
        LIFE.append("after");
        restoredAt = System.nanoTime();
    }

    static synchronized String draw() {
        Map<String, Object> drawn = new TreeMap<>();
        drawn.put("Random", RANDOM.nextLong());
        drawn.put("Random(42)", CHOSEN.nextLong());
        drawn.put("new Random", new Random().nextLong());
        drawn.put("Math.random", Math.random());
        drawn.put("ThreadLocalRandom", ThreadLocalRandom.current().nextLong());
        drawn.put("SplittableRandom", SPLITTABLE.nextLong());
        drawn.put("new SplittableRandom", new SplittableRandom().nextLong());
        drawn.put("SHA1PRNG", sha1.nextLong());
        drawn.put("DRBG", drbg.nextLong());
        try {
            drawn.put("new SHA1PRNG", SecureRandom.getInstance("SHA1PRNG").nextLong());
        } catch (java.security.GeneralSecurityException e) {
            throw new IllegalStateException(e);
        }
        drawn.put("UUID", java.util.UUID.randomUUID());
        drawn.put("life", LIFE.toString());
        drawn.put("ticks", TICKS.get() - ticksBefore);
        drawn.put("milliseconds", (System.nanoTime() - restoredAt) / 1_000_000);
        drawn.put("POD", System.getenv("POD"));
        StringBuilder json = new StringBuilder();
        drawn.forEach((name, value) -> json.append(", \"" + name + "\": \"" + value + '"'));
        return "{" + json.substring(2) + "}";
    }
}
