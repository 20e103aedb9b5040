package warmstart.hooks;

import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;

/** Lines on standard error. System.err may be the application's own by now. */
final class Log {

    private Log() {}

    static void line(String text) {
        // Not closed: the descriptor belongs to the process.
        FileOutputStream standardError = new FileOutputStream(FileDescriptor.err);
        try {
            standardError.write(("warmstart: " + text + "\n").getBytes(StandardCharsets.UTF_8));
        } catch (IOException e) {
            // Nobody reads it.
        }
    }
}
