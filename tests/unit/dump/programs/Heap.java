import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Fills a heap, says its checksum, and once a file appears says it again: before and after it has collected garbage. */
public class Heap {
    static final List<long[]> arrays = new ArrayList<>();
    static final Map<Integer, String> strings = new HashMap<>();

    static long checksum() {
        long sum = 0;
        for (long[] array : arrays)
            for (long word : array)
                sum = sum * 31 + word;
        for (int i = 0; i < strings.size(); i++)
            sum = sum * 31 + strings.get(i).hashCode();
        return sum;
    }

    static void churn(int megabytes) {
        List<byte[]> kept = new ArrayList<>();
        for (int i = 0; i < megabytes * 16; i++) {
            byte[] garbage = new byte[65536];
            for (byte b : garbage)
                if (b != 0) {
                    System.out.println("DIRTY new memory");
                    return;
                }
            garbage[i % garbage.length] = 1;
            if (i % 4 == 0)
                kept.add(garbage);
            if (kept.size() > 400)
                kept.clear();
        }
    }

    public static void main(String[] arguments) throws Exception {
        int megabytes = Integer.parseInt(arguments[0]);
        Path trigger = Path.of(arguments[1]);
        long seed = 88172645463325252L;
        for (int i = 0; i < megabytes; i++) {
            long[] array = new long[1 << 16];  // half a megabyte, and as much again as strings
            for (int j = 0; j < array.length; j += 1) {
                seed ^= seed << 13;
                seed ^= seed >>> 7;
                seed ^= seed << 17;
                array[j] = seed;
            }
            arrays.add(array);
            for (int j = 0; j < 4000; j++)
                strings.put(strings.size(), "value " + seed + j);
        }
        churn(100);
        System.out.println("ready " + checksum());
        while (!Files.exists(trigger))
            Thread.sleep(20);
        System.out.println("after restore " + checksum());
        System.gc();
        System.out.println("after collection " + checksum());
        for (int i = 0; i < 5; i++) {
            churn(200);
            System.gc();
        }
        System.out.println("after churn " + checksum());
    }
}
