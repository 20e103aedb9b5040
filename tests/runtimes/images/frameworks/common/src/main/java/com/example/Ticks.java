package com.example;

/** The times of a periodic task. */
public final class Ticks {

    private static final int WINDOW = 10;

    private final long[] times = new long[WINDOW];
    private final double expectedNs;
    private long count;
    private double pace = 100;

    public Ticks(long periodMs) {
        this.expectedNs = WINDOW * periodMs * 1e6;
    }

    public synchronized void tick() {
        long now = System.nanoTime();
        int index = (int) (count++ % WINDOW);
        if (count > WINDOW) {
            pace = Math.min(pace, 100 * (now - times[index]) / expectedNs);
        }
        times[index] = now;
    }

    /** Returns the least time that ten calls in sequence took, in percent of ten periods: a few if calls catch up. */
    public synchronized double pace() {
        return pace;
    }
}
