package com.example.catalogue;

import org.springframework.boot.context.properties.ConfigurationProperties;

/**
 * How much ballast the heap carries.
 *
 * @param sizeMb mebibytes of live data, made at start-up and kept; 0 for none
 */
@ConfigurationProperties("live-data")
public record LiveDataProperties(int sizeMb) {

    public LiveDataProperties {
        if (sizeMb < 0) {
            throw new IllegalArgumentException("live-data.size-mb must not be negative: " + sizeMb);
        }
    }
}
