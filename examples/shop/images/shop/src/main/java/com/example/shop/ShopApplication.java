package com.example.shop;

import java.security.Security;
import java.util.List;
import org.springframework.boot.WebApplicationType;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.builder.SpringApplicationBuilder;

/** A shop: a catalogue and orders in PostgreSQL, carts in sessions in Redis. */
@SpringBootApplication
public class ShopApplication {

    /** Serve; or, with the argument `migrate`, bring the database's schema up to date and end. */
    public static void main(String[] args) {
        // Ask for the addresses of PostgreSQL and Redis again at each connection: they move.
        Security.setProperty("networkaddress.cache.ttl", "0");
        // Test each connection before it is used, even one that was used a moment ago.
        System.setProperty("com.zaxxer.hikari.aliveBypassWindowMs", "0");
        if (List.of(args).contains("migrate")) {
            new SpringApplicationBuilder(Migration.class)
                    .web(WebApplicationType.NONE)
                    .run("--spring.flyway.enabled=true")
                    .close();
        } else {
            new SpringApplicationBuilder(ShopApplication.class).run(args);
        }
    }
}
