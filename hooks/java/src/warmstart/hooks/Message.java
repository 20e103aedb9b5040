package warmstart.hooks;

import java.util.Locale;

/** A line of JSON, short enough (PIPE_BUF) to be written in one piece. */
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

    Message with(String name, long nanoseconds) {
        fields.append(String.format(Locale.ROOT, ", \"%s\": %.3f", name, nanoseconds / 1e9));
        return this;
    }

    private void append(char c) {
        if (c == '"' || c == '\\') {
            fields.append('\\').append(c);
        } else if (c < ' ' || c > '~') {
            fields.append(String.format("\\u%04x", (int) c));
        } else {
            fields.append(c);
        }
    }

    String line() {
        return fields + "}\n";
    }
}
