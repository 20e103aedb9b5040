package warmstart.hooks;

import com.sun.management.HotSpotDiagnosticMXBean;
import com.sun.management.VMOption;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Path;
import java.util.Objects;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import warmstart.crac.Context;
import warmstart.crac.Resource;

/**
 * Sets the flags that a running JVM lets be set: SoftMaxHeapSize, where the pod has less memory than the build had, and
 * those that the pod's own JAVA_TOOL_OPTIONS gives (G1PeriodicGCInterval, for example). Nothing is loaded if neither
 * differs.
 */
final class HeapLimit implements Resource {

    private static final String OPTIONS = "JAVA_TOOL_OPTIONS";
    private static final Pattern FLAG = Pattern.compile("-XX:(?:([+-])(\\w+)|(\\w+)=(\\S+))");
    private static final Pattern TOTAL = Pattern.compile("MemTotal: +(\\d+) kB");
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
        Matcher flag = FLAG.matcher(options);
        while (flag.find()) {
            if (flag.group(1) == null) {
                set(flag.group(3), bytes(flag.group(4)));
            } else {
                set(flag.group(2), String.valueOf(flag.group(1).equals("+")));
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
            Matcher total = TOTAL.matcher(new String(PodEnvironment.read(meminfo.toFile())));
            return total.find() ? Long.parseLong(total.group(1)) << 10 : Long.MAX_VALUE;
        } catch (IOException e) {
            return Long.MAX_VALUE;
        }
    }
}
