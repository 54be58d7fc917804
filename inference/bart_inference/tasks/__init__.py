"""What users do with a checkpoint: one module for each task."""
