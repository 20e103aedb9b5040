package com.example.catalogue;

import org.springframework.boot.context.properties.ConfigurationProperties;

/**
 * What the catalogue is filled with at start-up.
 *
 * @param products how many products
 * @param seed the same seed gives the same products
 */
@ConfigurationProperties("catalogue")
public record CatalogueProperties(int products, long seed) {

    public CatalogueProperties {
        if (products < 1) {
            throw new IllegalArgumentException("catalogue.products must be at least 1, not " + products);
        }
    }
}
