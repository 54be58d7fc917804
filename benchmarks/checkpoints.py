"""Writes model folders for the benchmarks: random weights in the shapes of published checkpoints, in every format.

    python -m benchmarks.checkpoints CACHE base

The benchmarks run this command when a folder is missing. transformers and bart_inference load CACHE/<name>; CTranslate2
loads CACHE/<name>-ctranslate2 and CACHE/<name>-ctranslate2-int8. The weights are drawn from PyTorch's initial
distribution with a fixed seed, and the decoder's position embeddings are scaled up: otherwise a random BART repeats one
token without end, and a comparison of tokens would show little. The text of such a model is meaningless, but it costs
as much as that of a trained one. `tiny` is the embedded checkpoint, and `wide` the same with twice the width and the
vocabulary of bart-base (support/widen.py): it writes the same tokens at the cost of a larger model.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

SEED = 0
# Multiplies the decoder's random position embeddings, so that 37 of 40 generated tokens are different.
POSITION_SCALE = 9
# CTranslate2's converter needs these fields, which config.json of the published checkpoints has.
CONVERTER_FIELDS = {
    "normalize_before": False,
    "normalize_embedding": True,
    "add_final_layer_norm": False,
    "add_bias_logits": False,
}
LARGE: dict[str, Any] = {
    "vocab_size": 50265,
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "max_position_embeddings": 1024,
}
BASE = LARGE | {
    "d_model": 768,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
}
SHAPES: dict[str, dict[str, Any]] = {
    "base": BASE,  # facebook/bart-base
    "distilbart": LARGE | {"decoder_layers": 6},  # sshleifer/distilbart-cnn-12-6
    "large": LARGE,  # facebook/bart-large-cnn
}
TINY = pathlib.Path(__file__).resolve().parents[1] / "models" / "debian-tiny"
FORMATS = {"ctranslate2": None, "ctranslate2-int8": "int8"}  # suffix -> quantization


@contextlib.contextmanager
def cache_of(folder: pathlib.Path | None) -> Iterator[pathlib.Path]:
    """The folder in which model folders are kept: `folder`, or a temporary one if it is None."""
    with tempfile.TemporaryDirectory() as temporary:
        yield folder or pathlib.Path(temporary)


def folder_of(cache: pathlib.Path, name: str) -> pathlib.Path:
    """The folder of a model. If it is missing, another process writes it, whose memory is free when it ends."""
    if not (cache / f"{name}.complete").exists():
        subprocess.run([sys.executable, "-m", "benchmarks.checkpoints", str(cache), name], check=True)
    return cache / name


def fields_of(name: str) -> dict[str, Any]:
    """The fields of config.json that determine what a model costs."""
    if name in SHAPES:
        return SHAPES[name]
    fields: dict[str, Any] = json.loads((TINY / "config.json").read_text())
    if name == "wide":
        fields["vocab_size"] = BASE["vocab_size"]
        for field in ("d_model", "encoder_ffn_dim", "decoder_ffn_dim"):
            fields[field] *= 2
    return fields


def write(cache: pathlib.Path, name: str) -> None:
    folder = cache / name
    folder.mkdir(parents=True, exist_ok=True)
    if name in SHAPES:
        write_random(folder, SHAPES[name])
    elif name == "wide":
        write_wide(folder)
    else:
        shutil.copytree(TINY, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text()) | CONVERTER_FIELDS | {"dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    convert(folder)
    (cache / f"{name}.complete").touch()


def write_random(folder: pathlib.Path, fields: dict[str, Any]) -> None:
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(SEED)
    model = BartForConditionalGeneration(BartConfig(**fields, forced_eos_token_id=None)).eval()
    with torch.no_grad():
        model.model.decoder.embed_positions.weight *= POSITION_SCALE
    model.save_pretrained(folder)
    write_tokenizer(folder, fields["vocab_size"])


def write_wide(folder: pathlib.Path) -> None:
    from bart_inference import load, save

    from support.widen import widen

    vocabulary = fields_of("wide")["vocab_size"]
    save(widen(load(TINY), vocabulary), folder)
    write_tokenizer(folder, vocabulary)


def write_tokenizer(folder: pathlib.Path, size: int) -> None:
    """Writes a tokenizer with one word for every id, because CTranslate2's input is words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ("<s>", "<pad>", "</s>", "<unk>")
    words = {word: i for i, word in enumerate(special)}
    words |= {f"w{i}": i for i in range(len(special), size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def convert(folder: pathlib.Path) -> None:
    from ctranslate2.converters import TransformersConverter

    for suffix, quantization in FORMATS.items():
        TransformersConverter(str(folder)).convert(f"{folder}-{suffix}", quantization=quantization, force=True)


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]), sys.argv[2])
