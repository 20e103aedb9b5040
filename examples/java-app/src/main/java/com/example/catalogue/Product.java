package com.example.catalogue;

import java.math.BigDecimal;

/** One thing on sale. */
public record Product(int id, String name, String category, String description, BigDecimal price) {}
