package warmstart.hooks;

/**
 * A line of JSON, short enough (PIPE_BUF) to be written in one piece.
 *
 * <p>It is written without Formatter, which is the application's: HotSpot would take back the code that it compiled for
 * what the application formats.
 */
final class Message {

    private static final int LONGEST = 4000;

    private final StringBuilder fields;

    Message(String event) {
        fields = new StringBuilder("{\"pid\": ").append(ProcessHandle.current().pid());
        with("event", event);
    }

    Message with(String name, String value) {
        fields.append(", \"").append(name).append("\": \"");
        for (int i = 0; i < value.length() && fields.length() < LONGEST; i++) {
            append(value.charAt(i));
        }
        fields.append('"');
        return this;
    }

    /** Adds a duration, in seconds. */
    Message with(String name, long nanoseconds) {
        String milliseconds = String.valueOf(1_000 + nanoseconds / 1_000_000 % 1_000);
        fields.append(", \"").append(name).append("\": ").append(nanoseconds / 1_000_000_000).append('.');
        fields.append(milliseconds, 1, milliseconds.length());
        return this;
    }

    private void append(char c) {
        if (c == '"' || c == '\\') {
            fields.append('\\').append(c);
        } else if (c < ' ' || c > '~') {
            fields.append("\\u").append(Integer.toHexString(0x10000 + c), 1, 5);
        } else {
            fields.append(c);
        }
    }

    String line() {
        return fields + "}\n";
    }
}
