"""Content of base images kept in the cache between builds, up to a limit."""
