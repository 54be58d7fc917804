"""Code that tests and benchmarks share; it is in no wheel."""
