"""Has transformers write small checkpoint folders with a tokenizer, which tests load with transformers and with us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import BartConfig, BartForConditionalGeneration, BartTokenizer, PreTrainedModel

from tests.twins import TINY, randomize

torch.set_num_threads(1)  # for these tiny models, waiting for other threads takes longer than computing

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXTS = [
    "BART reads a long text and writes a short one.",
    "The library compiles arrays into fast programs, and the programs run on any device.",
    "A small tool that shows the weather in the terminal; it needs a network connection.",
    "Tests compare every number with those of another implementation.",
    "The cat sat on the mat while the dog, who was tired, slept under the old table.",
]


def write_bpe(folder: Path) -> None:
    """Writes vocab.json and merges.txt of a small byte-level BPE tokenizer that is trained on TEXTS."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(TEXTS, vocab_size=400, min_frequency=1, special_tokens=SPECIAL, show_progress=False)
    tokenizer.save_model(str(folder))


def write_folder(folder: Path, kind: type[PreTrainedModel] = BartForConditionalGeneration, **fields: Any) -> Path:
    """Writes a random checkpoint of class `kind` with a tokenizer by save_pretrained. `fields` are of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bpe(folder)
    tokenizer = BartTokenizer.from_pretrained(folder)
    model = kind(BartConfig(**{**TINY, "vocab_size": len(tokenizer), **fields}))
    randomize(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
