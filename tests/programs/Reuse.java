import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Fills memory, gives it back, and takes memory again; see reuse.c. Usage: Reuse PREFIX MEGABYTES */
public class Reuse {
    static class Fresh {
        long a;
        int b;
        Object c;
        Fresh next;
    }

    final List<byte[]> arrays = new ArrayList<>();
    final Map<Integer, String> strings = new HashMap<>();
    final List<ByteBuffer> buffers = new ArrayList<>();

    Reuse(int megabytes) {
        for (int i = 0; i < megabytes; i++) {
            byte[] array = new byte[700_000 + i];
            for (int j = 0; j < array.length; j++)
                array[j] = (byte) (i * 31 + j);
            arrays.add(array);
            for (int j = 0; j < 3000; j++)
                strings.put(strings.size(), "value " + i + " " + j);
            ByteBuffer buffer = ByteBuffer.allocateDirect(10_000 * (i % 20 + 1));
            while (buffer.hasRemaining())
                buffer.put((byte) i);
            buffers.add(buffer);
        }
    }

    long sum() {
        long sum = 0;
        for (byte[] array : arrays)
            for (byte each : array)
                sum = sum * 31 + each;
        for (int i = 0; i < strings.size(); i++)
            sum = sum * 31 + strings.get(i).hashCode();
        for (ByteBuffer buffer : buffers)
            for (int i = 0; i < buffer.capacity(); i++)
                sum = sum * 31 + buffer.get(i);
        return sum;
    }

    static boolean isZeros(byte[] array) {
        for (byte each : array)
            if (each != 0)
                return false;
        return true;
    }

    static boolean takeFresh(int megabytes) {
        boolean good = true;
        List<Object> kept = new ArrayList<>();
        Fresh last = null;
        for (int i = 0; i < megabytes; i++) {
            byte[] large = new byte[(i % 8 + 1) << 17];
            good &= isZeros(large);
            java.util.Arrays.fill(large, (byte) -1);
            Object[] objects = new Object[10_000];
            for (Object each : objects)
                good &= each == null;
            for (int j = 0; j < 5000; j++) {
                Fresh fresh = new Fresh();
                good &= fresh.a == 0 && fresh.b == 0 && fresh.c == null && fresh.next == null;
                fresh.a = -1;
                fresh.b = -1;
                fresh.c = large;
                fresh.next = j % 100 == 0 ? null : last;
                last = fresh;
            }
            ByteBuffer buffer = ByteBuffer.allocateDirect(30_000 * (i % 10 + 1));
            while (buffer.hasRemaining())
                good &= buffer.get() == 0;
            buffer.clear();
            while (buffer.hasRemaining())
                buffer.put((byte) -1);
            if (i % 3 == 0) {
                kept.add(large);
                kept.add(buffer);
            }
            if (kept.size() > 60)
                kept.clear();
        }
        return good;
    }

    static void await(String step) throws Exception {
        while (!Files.exists(Path.of(step)))
            Thread.sleep(10);
    }

    public static void main(String[] arguments) throws Exception {
        int megabytes = Integer.parseInt(arguments[1]);
        Reuse kept = new Reuse(megabytes / 3);
        Reuse dropped = new Reuse(megabytes);
        long known = kept.sum();
        long other = dropped.sum();
        takeFresh(100);
        System.out.println("ready");
        await(arguments[0] + ".touch");
        if (kept.sum() != known || dropped.sum() != other)
            System.out.println("WRONG what was kept, at first");
        for (byte[] array : dropped.arrays)
            for (int i = 0; i < array.length; i += 4096)
                array[i]++;
        System.out.println("touched");
        await(arguments[0] + ".free");
        dropped = null;
        for (int i = 0; i < 4; i++) {
            System.gc();
            Thread.sleep(100);
        }
        Thread.sleep(1500); // collectors that uncommit later
        System.out.println("freed");
        await(arguments[0] + ".reuse");
        boolean good = true;
        for (int round = 0; round < 3; round++) {
            good &= takeFresh(megabytes);
            boolean[] answers = new boolean[4];
            Thread[] threads = new Thread[4];
            for (int i = 0; i < 4; i++) {
                int at = i;
                threads[i] = new Thread(() -> answers[at] = takeFresh(50));
                threads[i].start();
            }
            for (int i = 0; i < 4; i++) {
                threads[i].join();
                good &= answers[i];
            }
            System.gc();
        }
        if (!good)
            System.out.println("WRONG no zeros");
        System.out.println(kept.sum() == known ? "fine" : "WRONG what was kept");
        while (true)
            Thread.sleep(1000);
    }
}
