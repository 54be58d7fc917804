"""What users do with a checkpoint: summaries and the task heads."""
