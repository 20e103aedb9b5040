package org.springframework.context;

/** As in Spring. */
public interface SmartLifecycle {
    void start();

    void stop();

    boolean isRunning();
}
