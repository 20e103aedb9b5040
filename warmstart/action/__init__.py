"""One go of an action against a container: HTTP request, TCP connection, command or gRPC health check."""
