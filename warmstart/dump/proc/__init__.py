"""A running container, as /proc shows it."""
