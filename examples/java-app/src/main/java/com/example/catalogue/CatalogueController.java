package com.example.catalogue;

import java.util.List;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;

@RestController
@RequestMapping("/catalogue")
class CatalogueController {

    /** The number of hits in all, and the first of them. */
    record SearchResult(String query, int total, List<Product> products) {}

    private final Catalogue catalogue;

    CatalogueController(Catalogue catalogue) {
        this.catalogue = catalogue;
    }

    @GetMapping("/search")
    SearchResult search(@RequestParam("q") String query, @RequestParam(defaultValue = "10") int limit) {
        if (limit < 1 || limit > 100) {
            throw new ResponseStatusException(HttpStatus.BAD_REQUEST, "limit must be from 1 to 100");
        }
        List<Product> hits = catalogue.search(query);
        return new SearchResult(query, hits.size(), hits.subList(0, Math.min(limit, hits.size())));
    }

    @GetMapping("/products/{id}")
    Product product(@PathVariable int id) {
        return catalogue.find(id).orElseThrow(() -> new ResponseStatusException(HttpStatus.NOT_FOUND, "no product " + id));
    }
}
