package com.example;

import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import javax.sql.DataSource;

/** The answer of each application: which database it asked, and the pace of its periodic task. */
public final class Visit {

    // A server starts after every other one that a test has started.
    private static final String QUERY = "SELECT extract(epoch FROM pg_postmaster_start_time())";

    private Visit() {}

    public static String answer(DataSource pool, Ticks ticks) {
        try (Connection connection = pool.getConnection();
                Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery(QUERY)) {
            row.next();
            return "{\"database\": " + row.getString(1) + ", \"pace\": " + ticks.pace() + "}";
        } catch (SQLException e) {
            throw new IllegalStateException(e);
        }
    }
}
