package com.example;

import io.quarkus.scheduler.Scheduled;
import io.smallrye.common.annotation.Blocking;
import jakarta.enterprise.context.ApplicationScoped;
import jakarta.ws.rs.GET;
import jakarta.ws.rs.Path;
import jakarta.ws.rs.Produces;
import javax.sql.DataSource;

/** Quarkus: Vert.x, Agroal and Quarkus's scheduler, whose shortest period is a second. */
@Path("/")
@ApplicationScoped
public class Application {

    private final Ticks ticks = new Ticks(1000);
    private final DataSource pool;

    Application(DataSource pool) {
        this.pool = pool;
    }

    @GET
    @Blocking
    @Produces("application/json")
    public String visit() {
        return Visit.answer(pool, ticks);
    }

    @Scheduled(every = "1s")
    void tick() {
        ticks.tick();
    }
}
