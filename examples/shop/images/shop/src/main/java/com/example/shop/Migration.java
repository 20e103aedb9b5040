package com.example.shop;

import org.springframework.boot.autoconfigure.ImportAutoConfiguration;
import org.springframework.boot.autoconfigure.flyway.FlywayAutoConfiguration;
import org.springframework.context.annotation.Import;

/** Only the database and Flyway, which migrates the schema as the context starts. */
@Import(DatabaseConfiguration.class)
@ImportAutoConfiguration(FlywayAutoConfiguration.class)
class Migration {}
