package com.example.catalogue;

import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Random;

/** Makes the products up; a service in earnest would load them from a database. */
final class ProductGenerator {

    private static final List<String> MATERIALS =
            List.of("oak", "steel", "linen", "glass", "cotton", "copper", "bamboo", "leather", "ceramic", "wool");
    private static final List<String> STYLES =
            List.of("plain", "foldable", "vintage", "compact", "striped", "modern", "sturdy", "light", "woven", "glazed");
    private static final List<String> CATEGORIES = List.of("kitchen", "garden", "office", "bedroom", "workshop");
    private static final List<List<String>> THINGS = List.of(
            List.of("bowl", "kettle", "board", "ladle", "mug", "pan"),
            List.of("bench", "lantern", "planter", "rake", "hose", "parasol"),
            List.of("desk", "lamp", "shelf", "tray", "chair", "clock"),
            List.of("blanket", "mirror", "pillow", "wardrobe", "rug", "stool"),
            List.of("hammer", "vice", "apron", "crate", "ladder", "saw"));

    private final Random random;

    ProductGenerator(long seed) {
        this.random = new Random(seed);
    }

    List<Product> generate(int count) {
        List<Product> products = new ArrayList<>(count);
        for (int id = 1; id <= count; id++) {
            products.add(product(id));
        }
        return products;
    }

    private Product product(int id) {
        int category = random.nextInt(CATEGORIES.size());
        String style = pick(STYLES);
        String material = pick(MATERIALS);
        String thing = pick(THINGS.get(category));
        String name = String.format(Locale.ROOT, "%s %s %s", style, material, thing);
        String description = String.format(
                Locale.ROOT,
                "A %s %s of %s with %s details, for the %s; batch %d.",
                style, thing, material, pick(MATERIALS), CATEGORIES.get(category), random.nextInt(1000));
        return new Product(id, name, CATEGORIES.get(category), description, BigDecimal.valueOf(100 + random.nextInt(50_000), 2));
    }

    private String pick(List<String> words) {
        return words.get(random.nextInt(words.size()));
    }
}
