package com.example.catalogue;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;

class CatalogueTest {

    private final Catalogue catalogue = new Catalogue(new CatalogueProperties(500, 7));

    @Test
    void everyHitHasEveryWordOfTheQuery() {
        List<Product> hits = catalogue.search("Oak, GARDEN");

        assertThat(hits).isNotEmpty().allSatisfy(product -> {
            assertThat(product.category()).isEqualTo("garden");
            assertThat(product.name() + product.description()).contains("oak");
        });
    }

    @Test
    void aQueryWithoutAWordOrWithAnUnknownOneFindsNothing() {
        assertThat(catalogue.search(" ,. ")).isEmpty();
        assertThat(catalogue.search("oak zeppelin")).isEmpty();
    }

    @Test
    void aSearchLeavesTheIndexAsItWas() {
        int before = catalogue.search("oak").size();
        catalogue.search("oak garden bench");

        assertThat(catalogue.search("oak")).hasSize(before);
    }

    @Test
    void theSameSeedMakesTheSameProducts() {
        assertThat(new Catalogue(new CatalogueProperties(500, 7)).find(500)).isEqualTo(catalogue.find(500));
        assertThat(new Catalogue(new CatalogueProperties(500, 8)).find(500)).isNotEqualTo(catalogue.find(500));
    }
}
