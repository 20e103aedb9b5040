package com.example.catalogue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import org.springframework.stereotype.Component;

/** The products, and an index from each word to the products that have it in their name, category or description. */
@Component
public class Catalogue {

    private final List<Product> products;
    private final Map<String, BitSet> index = new HashMap<>();

    public Catalogue(CatalogueProperties properties) {
        products = new ProductGenerator(properties.seed()).generate(properties.products());
        for (int position = 0; position < products.size(); position++) {
            Product product = products.get(position);
            for (String word : words(product.name() + ' ' + product.category() + ' ' + product.description())) {
                index.computeIfAbsent(word, unseen -> new BitSet(products.size())).set(position);
            }
        }
    }

    /** All products that have every word of the query, in order of their id. A query without a word finds nothing. */
    public List<Product> search(String query) {
        BitSet found = null;
        for (String word : words(query)) {
            BitSet having = index.getOrDefault(word, new BitSet());
            if (found == null) {
                found = (BitSet) having.clone();
            } else {
                found.and(having);
            }
        }
        List<Product> hits = new ArrayList<>();
        if (found != null) {
            found.stream().mapToObj(products::get).forEach(hits::add);
        }
        return hits;
    }

    public Optional<Product> find(int id) {
        return id >= 1 && id <= products.size() ? Optional.of(products.get(id - 1)) : Optional.empty();
    }

    private static List<String> words(String text) {
        return Arrays.stream(text.toLowerCase(Locale.ROOT).split("[^\\p{L}\\p{N}]+")).filter(word -> !word.isEmpty()).toList();
    }
}
