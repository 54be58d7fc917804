"""The Transformer: weights in each device's layout, matrix products with them, the encoder and the decoder."""
