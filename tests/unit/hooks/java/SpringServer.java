import org.springframework.context.SmartLifecycle;
import org.springframework.context.support.DefaultLifecycleProcessor;

/** A context of Spring with a web server, and a bean that is none; says what is stopped and started. */
public class SpringServer {

    static class Bean implements SmartLifecycle {
        private volatile boolean running = true;

        public void start() {
            running = true;
            System.out.println("start " + getClass().getSimpleName());
        }

        public void stop() {
            running = false;
            System.out.println("stop " + getClass().getSimpleName());
        }

        public boolean isRunning() {
            return running;
        }
    }

    static class WebServerStartStopLifecycle extends Bean {}

    static class WebServerGracefulShutdownLifecycle extends Bean {}

    static class Listener extends Bean {}

    public static void main(String[] arguments) throws Exception {
        Bean[] all = {new Listener(), new WebServerStartStopLifecycle(), new WebServerGracefulShutdownLifecycle()};
        DefaultLifecycleProcessor.Beans beans = new DefaultLifecycleProcessor.Beans();
        for (Bean bean : all) {
            beans.add(bean);
        }
        DefaultLifecycleProcessor processor = new DefaultLifecycleProcessor(beans);
        System.out.println("running");
        System.in.read();
        for (Bean bean : all) {
            System.out.println(bean.getClass().getSimpleName() + " " + bean.isRunning());
        }
        System.out.println(processor != null ? "end" : "");
    }
}
