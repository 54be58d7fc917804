"""How calls reach the server: gRPC with its interceptor, health and credentials."""
