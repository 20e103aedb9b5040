package com.example.shop;

import com.zaxxer.hikari.HikariDataSource;
import com.zaxxer.hikari.util.Credentials;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** A pool that reads the mounted secret for each new connection: the password is rotated while the shop runs. */
class RotatedCredentialsDataSource extends HikariDataSource {

    private final Path directory;

    RotatedCredentialsDataSource(Path directory) {
        this.directory = directory;
    }

    @Override
    public Credentials getCredentials() {
        return Credentials.of(read("username"), read("password"));
    }

    private String read(String name) {
        try {
            return Files.readString(directory.resolve(name)).strip();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
