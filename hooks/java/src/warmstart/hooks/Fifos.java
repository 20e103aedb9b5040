package warmstart.hooks;

import java.io.File;
import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.charset.StandardCharsets;

/** The three FIFOs of the protocol. None is open while nothing happens. */
final class Fifos {

    private static final int RETRY_MS = 100;

    private final File checkpoint;
    private final File restored;
    private final File reply;

    Fifos(File directory) {
        checkpoint = new File(directory, "checkpoint");
        restored = new File(directory, "restored");
        reply = new File(directory, "reply");
    }

    /** Waits until the checkpoint is requested; returns false if nothing takes checkpoints here. */
    boolean awaitCheckpoint() throws InterruptedException {
        return awaitWriter(checkpoint);
    }

    /** Waits until the process was restored (returns false), or the checkpoint was given up (true). */
    boolean awaitRestored() throws InterruptedException {
        return awaitWriter(restored);
    }

    /** Waits until something opens the FIFO for writing; returns false if the FIFO does not exist. */
    private static boolean awaitWriter(File fifo) throws InterruptedException {
        while (true) {
            try {
                // This blocks in open(2), which the kernel begins anew after a restore.
                new FileInputStream(fifo).close();
                return true;
            } catch (FileNotFoundException e) {
                if (!fifo.exists()) {
                    return false;
                }
                Log.line(fifo + " cannot be opened: " + e.getMessage());
            } catch (IOException e) {
                Log.line(fifo + " cannot be closed: " + e.getMessage());
            }
            Thread.sleep(RETRY_MS);
        }
    }

    /**
     * Sends a message. It is lost if nobody reads.
     *
     * <p>Not by a channel: HotSpot would take back the code by which the application writes to sockets.
     */
    void reply(Message message) {
        if (!reply.exists()) {
            Log.line("reply to the build failed: no " + reply);
            return;
        }
        // Opened for reading too, so that this does not wait for a reader.
        try (RandomAccessFile file = new RandomAccessFile(reply, "rw")) {
            file.write(message.line().getBytes(StandardCharsets.US_ASCII));
        } catch (IOException e) {
            Log.line("reply to the build failed: " + e);
        }
    }
}
