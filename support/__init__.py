"""What tests and benchmarks share; part of no wheel."""
