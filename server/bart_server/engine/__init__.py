"""Runs BART on a device. No other folder of the server imports jax."""
