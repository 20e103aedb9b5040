import java.io.File;
import java.net.URL;
import java.net.URLClassLoader;

/** Runs Callbacks as a web application with an org.crac of its own: its class loader looks at itself first, as Tomcat's. */
public class WebApplication {

    public static void main(String[] arguments) throws Exception {
        URL[] own = {new File(arguments[0]).toURI().toURL(), new File(arguments[1]).toURI().toURL()};
        ClassLoader loader = new URLClassLoader(own, ClassLoader.getSystemClassLoader()) {
            @Override
            protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
                boolean inside = name.startsWith("org.crac.") || name.startsWith("Callbacks");
                Class<?> loaded = inside ? findLoadedClass(name) : super.loadClass(name, resolve);
                return loaded == null ? findClass(name) : loaded;
            }
        };
        Class<?> core = loader.loadClass("org.crac.Core");
        System.out.println("own " + (core.getClassLoader() == loader));
        loader.loadClass("Callbacks").getMethod("main", String[].class).invoke(null, (Object) new String[0]);
    }
}
