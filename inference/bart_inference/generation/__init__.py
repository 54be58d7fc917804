"""Generation of texts: options, logits processors, search, whole answers and streams."""
