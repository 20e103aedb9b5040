package com.example.shop;

import jakarta.servlet.http.HttpSession;
import java.util.List;
import java.util.Map;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.ResponseStatus;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;

@RestController
@RequestMapping("/orders")
class OrderController {

    private final OrderRepository orders;
    private final ProductRepository products;

    OrderController(OrderRepository orders, ProductRepository products) {
        this.orders = orders;
        this.products = products;
    }

    /** Order what is in the cart. */
    @PostMapping
    @ResponseStatus(HttpStatus.CREATED)
    CustomerOrder place(@RequestParam String customer, HttpSession session) {
        Map<Long, Integer> cart = CartController.read(session);
        if (cart.isEmpty()) {
            throw new ResponseStatusException(HttpStatus.CONFLICT, "the cart is empty");
        }
        List<CustomerOrder.Line> lines = products.findAllById(cart.keySet()).stream()
                .map(product -> new CustomerOrder.Line(product.getId(), cart.get(product.getId()), product.getPrice()))
                .toList();
        CustomerOrder order = orders.save(new CustomerOrder(customer, lines));
        CartController.empty(session);
        return order;
    }

    @GetMapping("/{id}")
    CustomerOrder order(@PathVariable long id) {
        return orders.findById(id)
                .orElseThrow(() -> new ResponseStatusException(HttpStatus.NOT_FOUND, "no order " + id));
    }
}
