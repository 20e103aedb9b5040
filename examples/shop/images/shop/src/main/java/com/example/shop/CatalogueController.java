package com.example.shop;

import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.List;
import org.springframework.data.domain.Limit;
import org.springframework.http.HttpStatus;
import org.springframework.transaction.annotation.Transactional;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PutMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;

@RestController
@RequestMapping("/products")
class CatalogueController {

    private final ProductRepository products;
    private final Settings settings;

    CatalogueController(ProductRepository products, Settings settings) {
        this.products = products;
        this.settings = settings;
    }

    @GetMapping
    List<Product> search(@RequestParam(name = "q", defaultValue = "") String text) {
        return products.findByNameContainingIgnoreCaseOrderById(text, Limit.of(20));
    }

    @GetMapping("/{id}")
    Product product(@PathVariable long id) {
        return products.findById(id)
                .orElseThrow(() -> new ResponseStatusException(HttpStatus.NOT_FOUND, "no product " + id));
    }

    @PutMapping("/{id}/price")
    @Transactional
    Product changePrice(
            @PathVariable long id, @RequestBody BigDecimal price, @RequestHeader("X-Admin-Token") String token) {
        if (!isAdmin(token)) {
            throw new ResponseStatusException(HttpStatus.FORBIDDEN, "not the token of an administrator");
        }
        Product product = product(id);
        product.setPrice(price);
        return product;
    }

    private boolean isAdmin(String token) {
        byte[] expected = settings.values().adminToken().getBytes(StandardCharsets.UTF_8);
        return expected.length > 0 && MessageDigest.isEqual(expected, token.getBytes(StandardCharsets.UTF_8));
    }
}
