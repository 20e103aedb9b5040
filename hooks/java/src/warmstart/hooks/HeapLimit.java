package warmstart.hooks;

import com.sun.management.HotSpotDiagnosticMXBean;
import com.sun.management.VMOption;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Path;
import java.util.Objects;
import java.util.StringTokenizer;
import warmstart.crac.Context;
import warmstart.crac.Resource;

/**
 * Sets the flags that a running JVM lets be set: SoftMaxHeapSize, where the pod has less memory than the build had, and
 * those that the pod's own JAVA_TOOL_OPTIONS gives (G1PeriodicGCInterval, for example). Nothing is loaded if neither
 * differs.
 *
 * <p>Regular expressions are the application's: HotSpot would take back the code that it compiled for those.
 */
final class HeapLimit implements Resource {

    private static final String OPTIONS = "JAVA_TOOL_OPTIONS";
    private static final String FLAG = "-XX:";
    private static final String TOTAL = "MemTotal:";
    private static final String[] LIMITS = {"memory.max", "memory/memory.limit_in_bytes"};

    private final Path cgroups;
    private final Path meminfo;
    private long memory;
    private String options;

    HeapLimit() {
        this(Path.of("/sys/fs/cgroup"), Path.of("/proc/meminfo"));
    }

    /**
     * Prepares it.
     *
     * @param cgroups directory of the container's control group, of version 2, or of the controllers of version 1
     * @param meminfo the machine's memory, which is less than a limit that nobody has set
     */
    HeapLimit(Path cgroups, Path meminfo) {
        this.cgroups = cgroups;
        this.meminfo = meminfo;
    }

    @Override
    public void beforeCheckpoint(Context<? extends Resource> context) {
        memory = memoryLimit();
        options = System.getenv(OPTIONS);
    }

    @Override
    public void afterRestore(Context<? extends Resource> context) {
        long limit = memoryLimit();
        String given = System.getenv(OPTIONS);
        try {
            if (limit < memory && memory < Long.MAX_VALUE) {
                shrink((double) limit / memory);
            }
            if (given != null && !Objects.equals(options, given)) {
                setFlags(given);
            }
        } catch (RuntimeException | LinkageError e) {
            Log.line("the JVM's flags stay as they are: " + e); // the JDK may lack jdk.management
        }
    }

    private static void shrink(double ratio) {
        long heap = Runtime.getRuntime().maxMemory();
        set("SoftMaxHeapSize", String.valueOf((long) (heap * ratio)));
    }

    private static void setFlags(String options) {
        StringTokenizer words = new StringTokenizer(options);
        while (words.hasMoreTokens()) {
            String word = words.nextToken();
            int start = FLAG.length();
            int equals = word.indexOf('=');
            if (!word.startsWith(FLAG) || word.length() <= start + 1) {
                continue; // not a flag
            }
            if (word.charAt(start) == '+' || word.charAt(start) == '-') {
                set(word.substring(start + 1), String.valueOf(word.charAt(start) == '+'));
            } else if (equals > 0 && equals < word.length() - 1) {
                set(word.substring(start, equals), bytes(word.substring(equals + 1)));
            }
        }
    }

    private static void set(String name, String value) {
        HotSpotDiagnosticMXBean flags = ManagementFactory.getPlatformMXBean(HotSpotDiagnosticMXBean.class);
        try {
            VMOption option = flags.getVMOption(name);
            if (option.isWriteable() && !option.getValue().equals(value)) {
                flags.setVMOption(name, value);
            }
        } catch (IllegalArgumentException e) {
            Log.line("the JVM's flag " + name + " stays as it is: " + e.getMessage());
        }
    }

    /** Returns 512m as the number that it stands for. */
    private static String bytes(String value) {
        int shift = " kmgt".indexOf(Character.toLowerCase(value.charAt(value.length() - 1))) * 10;
        return shift <= 0 ? value : String.valueOf(Long.parseLong(value.substring(0, value.length() - 1)) << shift);
    }

    private long memoryLimit() {
        long limit = Long.MAX_VALUE;
        for (String name : LIMITS) {
            try {
                byte[] content = PodEnvironment.read(cgroups.resolve(name).toFile());
                limit = Math.min(limit, Long.parseLong(new String(content).strip()));
            } catch (IOException | NumberFormatException e) {
                // Another version of cgroups, or "max".
            }
        }
        return Math.min(limit, machineMemory());
    }

    private long machineMemory() {
        try {
            String text = new String(PodEnvironment.read(meminfo.toFile()));
            int total = text.indexOf(TOTAL);
            String kibibytes = text.substring(total + TOTAL.length(), text.indexOf(" kB", total));
            return total < 0 ? Long.MAX_VALUE : Long.parseLong(kibibytes.strip()) << 10;
        } catch (IOException | RuntimeException e) {
            return Long.MAX_VALUE; // it is not what a kernel writes
        }
    }
}
