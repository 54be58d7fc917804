"""Decides which requests run when. Pure Python: imports neither jax nor grpc."""
