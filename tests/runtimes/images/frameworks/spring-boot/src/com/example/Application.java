package com.example;

import javax.sql.DataSource;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.scheduling.annotation.EnableScheduling;
import org.springframework.scheduling.annotation.Scheduled;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

/** Spring Boot: Tomcat, HikariCP and Spring's scheduler. */
@SpringBootApplication
@EnableScheduling
@RestController
public class Application {

    private final Ticks ticks = new Ticks(100);
    private final DataSource pool;

    Application(DataSource pool) {
        this.pool = pool;
    }

    public static void main(String[] arguments) {
        SpringApplication.run(Application.class, arguments);
    }

    @GetMapping(value = "/", produces = "application/json")
    String visit() {
        return Visit.answer(pool, ticks);
    }

    @Scheduled(fixedRate = 100)
    void tick() {
        ticks.tick();
    }
}
