package warmstart.hooks;

import com.sun.management.HotSpotDiagnosticMXBean;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Restores a JVM beside another limit of memory.
 *
 * <p>Arguments: a directory that stands for the control group; the file with the limit, the limit of the build and of
 * the pod; the kilobytes of both machines.
 */
public final class PodMemory {

    private PodMemory() {}

    public static void main(String[] arguments) throws Exception {
        Path limit = Path.of(arguments[0], arguments[1]);
        Path meminfo = Path.of(arguments[0], "meminfo");
        HeapLimit resource = new HeapLimit(Path.of(arguments[0]), meminfo);
        Files.createDirectories(limit.getParent());
        Files.writeString(meminfo, "MemTotal:   " + arguments[4] + " kB\nMemFree:  1 kB\n");
        Files.writeString(limit, arguments[2] + "\n");
        resource.beforeCheckpoint(null);
        Files.writeString(limit, arguments[3] + "\n");
        resource.afterRestore(null);
        String soft = ManagementFactory.getPlatformMXBean(HotSpotDiagnosticMXBean.class)
                .getVMOption("SoftMaxHeapSize")
                .getValue();
        System.out.println((Long.parseLong(soft) >> 20) + " of " + (Runtime.getRuntime().maxMemory() >> 20));
    }
}
