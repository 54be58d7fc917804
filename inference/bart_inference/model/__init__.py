"""The Transformer on derived weights: layouts, products, encoder and decoder."""
