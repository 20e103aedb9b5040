"""Registries: credentials, the connection, pushing and pulling."""
