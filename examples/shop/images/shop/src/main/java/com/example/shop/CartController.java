package com.example.shop;

import jakarta.servlet.http.HttpSession;
import java.util.Map;
import java.util.TreeMap;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PutMapping;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;

/** The cart, in the customer's session: every replica finds it in Redis. */
@RestController
@RequestMapping("/cart")
class CartController {

    private static final String CART = "cart";

    private final ProductRepository products;

    CartController(ProductRepository products) {
        this.products = products;
    }

    /** The quantity of each product, by its id. */
    @GetMapping
    TreeMap<Long, Integer> cart(HttpSession session) {
        return read(session);
    }

    @PutMapping("/{product}")
    Map<Long, Integer> put(@PathVariable long product, @RequestParam(defaultValue = "1") int quantity, HttpSession session) {
        if (quantity < 1 || quantity > 1000) {
            throw new ResponseStatusException(HttpStatus.BAD_REQUEST, "quantity must be from 1 to 1000");
        }
        if (!products.existsById(product)) {
            throw new ResponseStatusException(HttpStatus.NOT_FOUND, "no product " + product);
        }
        TreeMap<Long, Integer> cart = read(session);
        cart.put(product, quantity);
        session.setAttribute(CART, cart);
        return cart;
    }

    @SuppressWarnings("unchecked")
    static TreeMap<Long, Integer> read(HttpSession session) {
        TreeMap<Long, Integer> cart = (TreeMap<Long, Integer>) session.getAttribute(CART);
        return cart == null ? new TreeMap<>() : cart;
    }

    static void empty(HttpSession session) {
        session.removeAttribute(CART);
    }
}
