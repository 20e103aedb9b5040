package com.example;

import io.micronaut.http.annotation.Controller;
import io.micronaut.http.annotation.Get;
import io.micronaut.runtime.Micronaut;
import io.micronaut.scheduling.TaskExecutors;
import io.micronaut.scheduling.annotation.ExecuteOn;
import io.micronaut.scheduling.annotation.Scheduled;
import javax.sql.DataSource;

/** Micronaut: Netty, HikariCP and Micronaut's scheduler. */
@Controller
public class Application {

    private final Ticks ticks = new Ticks(100);
    private final DataSource pool;

    Application(DataSource pool) {
        this.pool = pool;
    }

    public static void main(String[] arguments) {
        Micronaut.run(Application.class, arguments);
    }

    @Get("/")
    @ExecuteOn(TaskExecutors.BLOCKING)
    String visit() {
        return Visit.answer(pool, ticks);
    }

    @Scheduled(fixedRate = "100ms")
    void tick() {
        ticks.tick();
    }
}
