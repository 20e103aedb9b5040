package warmstart.hooks;

import java.io.File;
import java.lang.instrument.Instrumentation;

/** The agent's entry, for every JVM since Java 8: an older one than 11 starts as if there were no agent. */
public final class Agent {

    private static final double OLDEST = 55; // the class file version of Java 11
    private static final String PROVIDER = "org.crac.Core.Compat";

    private Agent() {}

    public static void premain(String arguments, Instrumentation instrumentation) throws Exception {
        if (Double.parseDouble(System.getProperty("java.class.version")) < OLDEST) {
            return;
        }
        if (System.getProperty(PROVIDER) == null) {
            System.setProperty(PROVIDER, "warmstart.crac");
        }
        String directory = System.getenv("WARMSTART_HOOKS");
        if (directory != null && new File(directory, "checkpoint").exists()) {
            Class.forName("warmstart.hooks.Hooks")
                    .getMethod("start", File.class, Instrumentation.class)
                    .invoke(null, new File(directory), instrumentation);
        }
    }
}
