"""BART on a device: the only importer of jax and of bart_inference."""
