package com.example.catalogue;

import java.lang.management.ManagementFactory;
import java.time.Instant;
import java.util.UUID;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

/**
 * Tells which process answers. The id and the start time are set once, at start-up: a restored process goes on with
 * them, and with its count of requests, where a cold start would have new ones.
 */
@RestController
class StateController {

    record State(UUID instanceId, Instant startedAt, long requests, long heapUsedBytes) {}

    private final UUID instanceId = UUID.randomUUID();
    private final Instant startedAt = Instant.now();
    private final RequestCounter requests;

    StateController(RequestCounter requests) {
        this.requests = requests;
    }

    @GetMapping("/state")
    State state() {
        long heapUsed = ManagementFactory.getMemoryMXBean().getHeapMemoryUsage().getUsed();
        return new State(instanceId, startedAt, requests.count(), heapUsed);
    }
}
