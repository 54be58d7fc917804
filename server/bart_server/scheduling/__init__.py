"""Who runs when: pure Python, neither jax nor grpc."""
