"""Compares a BERT, RoBERTa or T5 with PyTorch, for tests/report.py.

The model is a checkpoint (a folder or a hub id), or has random weights in a shape that SHAPES names.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bert_oneliner
import jax
import numpy as np
import torch
from bart_inference.checkpoint import CheckpointError
from bart_inference.hub import find_folder

from tests import gradients, rows
from tests.relatives.twins import ENCODER, FAMILIES, Twin, batch, float64, logits, of, ours, theirs, torch_logits, twin
from tests.rows import Row, relative

# Large models are cut to six layers: with all layers, float64 needs more memory than common machines have.
BERT_LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "num_hidden_layers": 6}
PUBLISHED_T5 = {"vocab_size": 32128, "d_kv": 64, "relative_attention_num_buckets": 32}
PUBLISHED_T5 |= {"relative_attention_max_distance": 128}


def t5(d_model: int, d_ff: int, num_heads: int, layers: int) -> dict[str, Any]:
    sizes = {"d_model": d_model, "d_ff": d_ff, "num_heads": num_heads}
    return PUBLISHED_T5 | sizes | {"num_layers": layers, "num_decoder_layers": layers}


def bert(name: str, **fields: Any) -> dict[str, Any]:
    """Fields of a BERT or RoBERTa: `fields`, and otherwise transformers' defaults, of the base model's size."""
    defaults = FAMILIES[name].config()
    return {field: getattr(defaults, field) for field in FAMILIES[name].tiny} | fields


# The fields of the RoBERTa checkpoints that differ from the defaults of transformers' RobertaConfig.
ROBERTA = {"layer_norm_eps": 1e-5, "max_position_embeddings": 514, "type_vocab_size": 1}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-tiny": ("bert", {}),
    "bert-base": ("bert", bert("bert")),
    "bert-large": ("bert", bert("bert", **BERT_LARGE)),
    "roberta-tiny": ("roberta", {}),
    "roberta-base": ("roberta", bert("roberta", **ROBERTA)),
    "roberta-large": ("roberta", bert("roberta", **ROBERTA, **BERT_LARGE)),
    "t5-tiny": ("t5", {}),
    "t5-small": ("t5", t5(512, 2048, 8, 6)),
    "t5-base": ("t5", t5(768, 3072, 12, 12)),
    "t5-large": ("t5", t5(1024, 4096, 16, 6)),
    "flan-t5-tiny": ("t5-v1.1", {}),
    "flan-t5-small": ("t5-v1.1", t5(512, 1024, 6, 8)),
    "flan-t5-base": ("t5-v1.1", t5(768, 2048, 12, 12)),
    "flan-t5-large": ("t5-v1.1", t5(1024, 2816, 16, 6)),
}


def family_of(checkpoint: str) -> str | None:
    """The key of FAMILIES for a name in SHAPES, a folder or a hub id; None if the model belongs to no such family."""
    if checkpoint in SHAPES:
        return SHAPES[checkpoint][0]
    try:
        fields = json.loads((Path(find_folder(checkpoint)) / "config.json").read_text(encoding="utf-8"))
    except (CheckpointError, OSError, ValueError):
        return None  # the caller then loads it as a BART, which raises the error
    if fields.get("model_type") == "t5" and not fields.get("tie_word_embeddings", True):
        return "t5-v1.1"
    return fields.get("model_type") if fields.get("model_type") in FAMILIES else None


def open_checkpoint(checkpoint: str, family: str) -> Twin:
    if checkpoint in SHAPES:
        return twin(family, **SHAPES[checkpoint][1])
    return of(family, FAMILIES[family].model.from_pretrained(find_folder(checkpoint), dtype=torch.float32))


def report(pair: Twin, float64: bool = True) -> Iterator[Row]:
    """Yields each row as soon as it is computed."""
    x = batch(pair, B=3, S=24, T=12)
    yield rows.parameters(pair.family.page.revert(pair.params, pair.config), pair.torch)
    yield Row("logits, float32", relative(logits(pair, x), torch_logits(pair, x)), 1e-5, "3 rows, length 24")
    if pair.family.inputs == ENCODER:
        if (pair.config.model_type, pair.config.hidden_act) == ("bert", "gelu"):
            line = jax.jit(bert_oneliner.bert)(pair.params, *(x[name] for name in ENCODER))
            yield Row("logits of the one line, float32", relative(line, torch_logits(pair, x)), 1e-5)
    else:
        yield generation(pair, x)
    yield from losses_and_gradients(pair, x, float64)


def generation(pair: Twin, x: dict[str, np.ndarray]) -> Row:
    """Counts the tokens of greedy search that differ from PyTorch's."""
    source = {name: x[name] for name in ("input_ids", "attention_mask")}
    mine = np.asarray(pair.family.page.greedy(pair.params, pair.config, **source, max_length=24))
    inputs = {name: torch.tensor(array).long() for name, array in source.items()}
    with warnings.catch_warnings(action="ignore"):
        tokens = pair.torch.generate(**inputs, num_beams=1, do_sample=False, max_length=24, use_cache=False).numpy()
    tokens = np.pad(tokens, ((0, 0), (0, 24 - tokens.shape[1])), constant_values=pair.config.pad_token_id)
    return Row("generated tokens, greedy", int((mine != tokens).sum()), 0, f"{len(np.unique(tokens))} different tokens")


def losses_and_gradients(pair: Twin, x: dict[str, np.ndarray], in_float64: bool) -> Iterator[Row]:
    """Loss and gradients in float32 and in float64."""
    mine, reference = ours(pair, x), theirs(pair, x)
    yield Row("loss, float32", abs(mine[0] - reference[0]) / reference[0], 1e-5, f"{mine[0]:.4f}")
    whole = gradients.norm(reference[1])
    if not in_float64:
        far = gradients.distance(reference[1], mine[1]) / whole
        yield Row("gradient, whole, float32", far, 1e-4, f"norm {whole:.3g}")
        return
    with float64():
        pair.torch.double()
        truth, true_logits = theirs(pair, x), torch_logits(pair, x)
        yield rows.float32_gradient(mine[1], reference[1], truth[1])
        del mine, reference  # frees the float32 gradients before our float64 gradient needs memory
        [name] = [n for n, family in FAMILIES.items() if family is pair.family]
        wide = of(name, pair.torch)
        pair.torch.float()
        yield Row("logits, float64", relative(logits(wide, x), true_logits), 1e-12)
        yield from rows.float64("loss", ours(wide, x), truth)
