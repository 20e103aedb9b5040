package warmstart.hooks;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.Charset;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.StringTokenizer;
import java.util.TimeZone;
import warmstart.crac.Context;
import warmstart.crac.Resource;

/**
 * System.getenv() becomes the environment of the pod, for the variables that are late. The map that System.getenv()
 * returns is changed in place, because applications (Spring's Environment) keep it. Programs that the JVM starts without
 * an environment of their own get the old one: the C library's is not in reach.
 */
final class PodEnvironment implements Resource {

    private static final String ALL = "*";

    private final File file;
    private final Set<String> late = new HashSet<>();
    // Found before the application runs, from which HotSpot would take back code otherwise.
    private final Charset charset = Charset.forName(System.getProperty("sun.jnu.encoding"));
    private final Map<String, String> variables;

    /**
     * Prepares it.
     *
     * @param file NAME=VALUE and a NUL for each variable of the pod; absent or empty if the restore gave no environment
     * @param late names separated by commas, or "*"
     */
    @SuppressWarnings("unchecked")
    PodEnvironment(File file, String late) throws ReflectiveOperationException {
        this.file = file;
        StringTokenizer names = new StringTokenizer(late, ",");
        while (names.hasMoreTokens()) {
            this.late.add(names.nextToken());
        }
        this.variables = (Map<String, String>) Internals.get(System.getenv(), "m");
    }

    @Override
    public void beforeCheckpoint(Context<? extends Resource> context) {}

    @Override
    public void afterRestore(Context<? extends Resource> context) throws IOException {
        Map<String, String> pod = file.exists() ? read() : Map.of();
        if (pod.isEmpty()) {
            return;
        }
        Set<String> names = late;
        if (late.contains(ALL)) {
            names = new HashSet<>(variables.keySet());
            names.addAll(pod.keySet());
        }
        String zone = variables.get("TZ");
        for (String name : names) {
            set(name, pod.get(name));
        }
        if (!Objects.equals(zone, variables.get("TZ"))) {
            setTimeZone(variables.get("TZ"));
        }
    }

    private Map<String, String> read() throws IOException {
        Map<String, String> pod = new HashMap<>();
        StringTokenizer content = new StringTokenizer(new String(read(file), charset), "\0");
        while (content.hasMoreTokens()) {
            String variable = content.nextToken();
            int equals = variable.indexOf('=');
            if (equals > 0) {
                pod.put(variable.substring(0, equals), variable.substring(equals + 1));
            }
        }
        return pod;
    }

    /** Not by a channel: the thread's first buffer for one makes HotSpot take back code that each request uses. */
    static byte[] read(File file) throws IOException {
        try (InputStream in = new FileInputStream(file)) {
            return in.readAllBytes();
        }
    }

    private void set(String name, String value) {
        if (value == null) {
            variables.remove(name);
        } else if (!value.equals(variables.get(name))) {
            variables.put(name, value);
        }
    }

    /** The JVM determined its zone from TZ when it started. */
    private static void setTimeZone(String zone) {
        if (zone != null) {
            TimeZone.setDefault(TimeZone.getTimeZone(zone.startsWith(":") ? zone.substring(1) : zone));
        }
    }
}
