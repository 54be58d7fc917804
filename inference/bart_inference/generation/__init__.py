"""Generation: options, logits processors, search, whole answers and streams."""
