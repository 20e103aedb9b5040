package com.example.shop;

import jakarta.persistence.CollectionTable;
import jakarta.persistence.ElementCollection;
import jakarta.persistence.Embeddable;
import jakarta.persistence.Entity;
import jakarta.persistence.FetchType;
import jakarta.persistence.GeneratedValue;
import jakarta.persistence.GenerationType;
import jakarta.persistence.Id;
import jakarta.persistence.JoinColumn;
import java.math.BigDecimal;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.List;

/** What a customer bought, at the prices of that day. */
@Entity
class CustomerOrder {

    /** So many of a product. */
    @Embeddable
    record Line(long productId, int quantity, BigDecimal price) {}

    @Id
    @GeneratedValue(strategy = GenerationType.IDENTITY)
    private Long id;

    private String customer;
    private Instant placedAt;

    @ElementCollection(fetch = FetchType.EAGER)
    @CollectionTable(name = "order_line", joinColumns = @JoinColumn(name = "order_id"))
    private List<Line> lines = new ArrayList<>();

    protected CustomerOrder() {}

    CustomerOrder(String customer, List<Line> lines) {
        this.customer = customer;
        this.placedAt = Instant.now().truncatedTo(ChronoUnit.MICROS);
        this.lines.addAll(lines);
    }

    public Long getId() {
        return id;
    }

    public String getCustomer() {
        return customer;
    }

    public Instant getPlacedAt() {
        return placedAt;
    }

    public List<Line> getLines() {
        return lines;
    }

    public BigDecimal getTotal() {
        return lines.stream()
                .map(line -> line.price().multiply(BigDecimal.valueOf(line.quantity())))
                .reduce(BigDecimal.ZERO, BigDecimal::add);
    }
}
