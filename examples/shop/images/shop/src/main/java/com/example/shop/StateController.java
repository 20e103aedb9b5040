package com.example.shop;

import com.zaxxer.hikari.HikariDataSource;
import java.time.Instant;
import java.util.concurrent.atomic.AtomicInteger;
import org.springframework.http.HttpStatus;
import org.springframework.jdbc.core.simple.JdbcClient;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.ResponseStatus;
import org.springframework.web.bind.annotation.RestController;

/** Tells which shop this is, and takes up what has changed around it. */
@RestController
class StateController {

    /**
     * The state of this process.
     *
     * @param shop the name in the ConfigMap
     * @param pod the pod's name
     * @param address the pod's address
     * @param databaseUser whom the database takes this process for
     * @param startedAt a restored process goes on with the time of the build
     * @param refreshes how often it read its settings again
     */
    record State(String shop, String pod, String address, String databaseUser, Instant startedAt, int refreshes) {}

    private final Instant startedAt = Instant.now();
    private final AtomicInteger refreshes = new AtomicInteger();
    private final Settings settings;
    private final HikariDataSource pool;
    private final JdbcClient database;

    StateController(Settings settings, HikariDataSource pool, JdbcClient database) {
        this.settings = settings;
        this.pool = pool;
        this.database = database;
    }

    @GetMapping("/state")
    State state() {
        Settings.Values values = settings.values();
        String user = database.sql("SELECT current_user").query(String.class).single();
        return new State(values.name(), values.pod(), values.address(), user, startedAt, refreshes.get());
    }

    /** Read the settings again, and let go of the connections of the credentials before. */
    @PostMapping("/internal/refresh")
    @ResponseStatus(HttpStatus.NO_CONTENT)
    void refresh() {
        settings.refresh();
        pool.getHikariPoolMXBean().softEvictConnections();
        refreshes.incrementAndGet();
    }
}
