import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.NavigableMap;
import java.util.UUID;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.zip.CRC32C;

/**
 * Completes words: POST /words with a text teaches it the words of the text, GET /complete?prefix= tells the most
 * frequent ones that start so. No framework, only what the JDK brings.
 */
public final class Main {

    /** Which process answers: a restored one goes on with its id, start time and counts. */
    private static final UUID INSTANCE_ID = UUID.randomUUID();

    private static final Instant STARTED_AT = Instant.now();
    private static final AtomicLong REQUESTS = new AtomicLong();
    private static final int MAX_TEXT_BYTES = 1 << 20;

    private final NavigableMap<String, AtomicLong> words = new ConcurrentSkipListMap<>();
    private final LiveData liveData = new LiveData(Integer.parseInt(System.getenv().getOrDefault("LIVE_DATA_SIZE_MB", "0")));

    private record Answer(int status, String body) {}

    public static void main(String[] args) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress("0.0.0.0", 8080), 0);
        new Main().routes().forEach((path, handler) -> server.createContext(path, exchange -> serve(exchange, handler)));
        server.setExecutor(Executors.newFixedThreadPool(8));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> server.stop(1)));
        server.start();
        System.out.println("listening on 8080");
    }

    private Map<String, Function<HttpExchange, Answer>> routes() {
        return Map.of(
                "/healthz", exchange -> ok("\"ok\""),
                "/state", exchange -> state(),
                "/words", this::learn,
                "/complete", this::complete,
                "/live-data/checksum", exchange -> ok(liveData.verify()),
                "/live-data/churn", exchange -> churn(parameters(exchange)));
    }

    private static void serve(HttpExchange exchange, Function<HttpExchange, Answer> handler) throws IOException {
        try (exchange) {
            if (!exchange.getRequestURI().getPath().equals("/healthz")) {
                REQUESTS.incrementAndGet();
            }
            Answer answer;
            try {
                answer = handler.apply(exchange);
            } catch (IllegalArgumentException error) {
                answer = new Answer(400, "{\"error\":\"" + error.getMessage().replaceAll("[\"\\\\\\p{Cntrl}]", " ") + "\"}");
            }
            byte[] body = answer.body().getBytes(StandardCharsets.UTF_8);
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.sendResponseHeaders(answer.status(), body.length);
            exchange.getResponseBody().write(body);
        }
    }

    private Answer state() {
        Runtime runtime = Runtime.getRuntime();
        return ok(String.format(
                "{\"instanceId\":\"%s\",\"startedAt\":\"%s\",\"requests\":%d,\"words\":%d,\"heapUsedBytes\":%d}",
                INSTANCE_ID, STARTED_AT, REQUESTS.get(), words.size(), runtime.totalMemory() - runtime.freeMemory()));
    }

    private Answer learn(HttpExchange exchange) {
        if (!exchange.getRequestMethod().equals("POST")) {
            return new Answer(405, "{\"error\":\"POST a text to learn from\"}");
        }
        byte[] text;
        try {
            text = exchange.getRequestBody().readNBytes(MAX_TEXT_BYTES);
        } catch (IOException error) {
            throw new IllegalArgumentException("the text could not be read", error);
        }
        long learnt = Arrays.stream(new String(text, StandardCharsets.UTF_8).toLowerCase().split("[^\\p{L}]+"))
                .filter(word -> !word.isEmpty())
                .peek(word -> words.computeIfAbsent(word, unseen -> new AtomicLong()).incrementAndGet())
                .count();
        return ok("{\"learnt\":" + learnt + "}");
    }

    private Answer complete(HttpExchange exchange) {
        String prefix = parameters(exchange).getOrDefault("prefix", "").toLowerCase();
        List<String> found = words.subMap(prefix, prefix + Character.MAX_VALUE).entrySet().stream()
                .sorted((one, other) -> Long.compare(other.getValue().get(), one.getValue().get()))
                .limit(10)
                .map(entry -> '"' + entry.getKey() + '"')
                .toList();
        return ok("{\"words\":[" + String.join(",", found) + "]}");
    }

    private Answer churn(Map<String, String> parameters) {
        int sizeMb = Integer.parseInt(parameters.getOrDefault("mb", ""));
        if (sizeMb < 1 || sizeMb > 65536) {
            throw new IllegalArgumentException("mb must be from 1 to 65536");
        }
        return ok(LiveData.churn(sizeMb));
    }

    private static Answer ok(String body) {
        return new Answer(200, body);
    }

    private static Map<String, String> parameters(HttpExchange exchange) {
        String query = exchange.getRequestURI().getQuery();
        return query == null ? new HashMap<>() : Arrays.stream(query.split("&"))
                .map(pair -> pair.split("=", 2))
                .collect(Collectors.toMap(pair -> pair[0], pair -> pair.length == 2 ? pair[1] : "", (first, again) -> again));
    }

    /** Ballast that stands for the heap of a bigger service; what a block holds follows from its number. */
    private static final class LiveData {

        private static final int BLOCK_BYTES = 8192;

        private record Block(byte[] content, long checksum) {}

        private final Block[] blocks;

        LiveData(int sizeMb) {
            blocks = new Block[blocksIn(sizeMb)];
            for (int number = 0; number < blocks.length; number++) {
                byte[] content = new byte[BLOCK_BYTES];
                fill(content, number);
                blocks[number] = new Block(content, checksum(content));
            }
        }

        /** Read every block and compare it with the checksum it had at start-up. */
        String verify() {
            CRC32C whole = new CRC32C();
            int corrupt = 0;
            for (Block block : blocks) {
                whole.update(block.content());
                corrupt += checksum(block.content()) == block.checksum() ? 0 : 1;
            }
            return json(blocks.length, corrupt, whole);
        }

        /** Allocate and drop so many mebibytes, checking that fresh memory is zero: what is given back is used again. */
        static String churn(int sizeMb) {
            CRC32C whole = new CRC32C();
            int corrupt = 0;
            byte[] zero = new byte[BLOCK_BYTES];
            for (int number = 0; number < blocksIn(sizeMb); number++) {
                byte[] fresh = new byte[BLOCK_BYTES];
                corrupt += Arrays.equals(fresh, zero) ? 0 : 1;
                fill(fresh, number);
                whole.update(fresh);
            }
            return json(blocksIn(sizeMb), corrupt, whole);
        }

        private static int blocksIn(int sizeMb) {
            return Math.toIntExact(sizeMb * (1024L * 1024L) / BLOCK_BYTES);
        }

        private static void fill(byte[] content, int number) {
            ByteBuffer buffer = ByteBuffer.wrap(content);
            long state = number;
            while (buffer.hasRemaining()) {
                state = state * 6364136223846793005L + 1442695040888963407L;
                buffer.putLong(state >>> 32);
            }
        }

        private static long checksum(byte[] content) {
            CRC32C crc = new CRC32C();
            crc.update(content);
            return crc.getValue();
        }

        private static String json(int blocks, int corrupt, CRC32C whole) {
            return String.format("{\"blocks\":%d,\"corrupt\":%d,\"checksum\":\"%08x\"}", blocks, corrupt, whole.getValue());
        }
    }
}
