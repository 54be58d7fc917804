"""Trains three steps on all devices: `python -m tests.training.sharded FOLDER`.

tests/training/test_loop.py calls `run` with one device and starts this file as a process with four.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from bart_training.data import Batch
from bart_training.loop import train
from bart_training.options import Options

import bart_oneliner
from bart_oneliner import Config, Params

CONFIG = Config(
    vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
    encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=32, dropout=0.0,
)  # fmt: skip


def run(folder: Path) -> Params:
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(3, 40, (8, 16)), rng.integers(3, 40, (8, 8))
    labels[3:, 4:] = -100  # so devices have different numbers of labels; the loss is one mean over all of them
    batch = Batch(ids, np.ones_like(ids), labels)
    params = bart_oneliner.init(CONFIG, jax.random.key(0))
    return train(params, CONFIG, lambda step: batch, Options(steps=3, warmup=0, learning_rate=1e-2), folder)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
    print(jax.device_count())
