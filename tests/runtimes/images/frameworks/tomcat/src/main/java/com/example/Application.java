package com.example;

import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;
import org.apache.tomcat.jdbc.pool.DataSource;

/** Tomcat without a framework, with its own pool. */
public class Application extends HttpServlet {

    private static final long serialVersionUID = 1;

    private final transient Ticks ticks = new Ticks(100);
    private final transient DataSource pool = new DataSource();

    Application() {
        pool.setDriverClassName("org.postgresql.Driver");
        pool.setUrl(System.getenv("DB_URL"));
        pool.setUsername(System.getenv("DB_USER"));
        pool.setPassword(System.getenv("DB_PASSWORD"));
        pool.setInitialSize(3);
        pool.setMaxActive(3);
        Executors.newScheduledThreadPool(1).scheduleAtFixedRate(ticks::tick, 0, 100, TimeUnit.MILLISECONDS);
    }

    public static void main(String[] arguments) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir("/tmp/tomcat");
        tomcat.setPort(8080);
        tomcat.getConnector();
        Context context = tomcat.addContext("", null);
        Tomcat.addServlet(context, "application", new Application());
        context.addServletMappingDecoded("/", "application");
        tomcat.start();
        tomcat.getServer().await();
    }

    @Override
    protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
        response.setContentType("application/json");
        response.getWriter().print(Visit.answer(pool, ticks));
    }
}
