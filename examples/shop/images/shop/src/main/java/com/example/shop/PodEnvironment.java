package com.example.shop;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;

/**
 * The environment variables of the container that the shop runs in.
 *
 * <p>A process that was restored from a checkpoint still has the variables of the container that it was started in. Those
 * of its own container are in a file, `NAME=VALUE` followed by a NUL for each.
 */
final class PodEnvironment {

    private static final Path AFTER_A_RESTORE = Path.of("/.warmstart/env");

    private PodEnvironment() {}

    static Map<String, String> read() {
        try {
            String content = Files.exists(AFTER_A_RESTORE) ? Files.readString(AFTER_A_RESTORE, StandardCharsets.UTF_8) : "";
            return content.isEmpty() ? System.getenv() : parse(content);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    static Map<String, String> parse(String content) {
        Map<String, String> variables = new HashMap<>();
        for (String variable : content.split("\0")) {
            int end = variable.indexOf('=');
            if (end > 0) {
                variables.put(variable.substring(0, end), variable.substring(end + 1));
            }
        }
        return variables;
    }
}
