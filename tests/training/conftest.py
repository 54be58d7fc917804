"""Fixtures: a corpus of invented packages, a tokenizer trained on it, and a model of a few thousand parameters."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from bart_training.tokenizer import train_tokenizer
from tokenizers import Tokenizer

import bart_oneliner
from bart_oneliner import Config, Params

NOUNS = ["parser", "editor", "compiler", "viewer", "player", "server", "client", "library"]
TOPICS = ["music", "XML", "Python", "network", "image", "chess", "weather", "mail"]


@pytest.fixture(scope="package", autouse=True)
def compile_fast() -> Iterator[None]:
    """Switches most of XLA's optimizations off, because these tests compile for longer than they compute."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def records() -> list[dict[str, str]]:
    """Sixty-four records, all different."""
    return [
        {
            "package": f"{topic.lower()}-{noun}",
            "source": f"{topic.lower()}-{noun}",
            "document": f"This package provides a {topic} {noun} for daily use. It is small and fast. It has no menu.",
            "summary": f"{topic} {noun} for daily use",
        }
        for topic in TOPICS
        for noun in NOUNS
    ]


@pytest.fixture(scope="session")
def corpus(records: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for split in ("train", "validation", "test"):
        with gzip.open(folder / f"{split}.jsonl.gz", "wt", encoding="utf-8") as f:
            f.writelines(json.dumps(record) + "\n" for record in records)
    return folder


@pytest.fixture(scope="session")
def tokenizer(records: list[dict[str, str]]) -> Tokenizer:
    return train_tokenizer([record["document"] for record in records], vocab_size=400)


@pytest.fixture(scope="session")
def config(tokenizer: Tokenizer) -> Config:
    return Config(
        vocab_size=tokenizer.get_vocab_size(), d_model=16, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip


@pytest.fixture(scope="session")
def params(config: Config) -> Params:
    return jax.tree.map(np.asarray, bart_oneliner.init(config, jax.random.key(0)))
