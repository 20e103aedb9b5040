"""Search for the values of secrets in what a build publishes."""
