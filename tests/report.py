"""Compares a checkpoint with PyTorch: `python -m tests.report [FOLDER | HUB_ID | tiny | base | large | …]`.

The default is the embedded checkpoint. `tiny`, `base` and `large` are random weights in these shapes of BART;
`bert-base`, `roberta-base`, `t5-small` and the other SHAPES of tests/relatives/report.py are random weights in shapes
of its relatives. Every row of the table has a difference, the tolerance and ✅ or ❌. The exit status is 0 if all rows
are ✅, and 1 otherwise. bart-large in float64 needs 17 GB of memory; `--float32` omits the rows in float64.
"""

from __future__ import annotations

import argparse
import platform
import sys
import warnings
from collections.abc import Iterator

import jax
import numpy as np
import torch
import transformers
from bart_inference import Model, generate, load, prepare
from bart_inference.checkpoint import embedded
from bart_inference.hub import find_folder
from bart_inference.tokenization import encode_text, pad, truncate
from transformers import BartForConditionalGeneration

from bart_oneliner import bart, param_shapes, revert
from tests import gradients, rows
from tests.relatives import report as relatives
from tests.rows import Row, relative
from tests.twins import BASE, LARGE, TINY, Twin, batch, logits, of, torch_logits, twin

SHAPES = {"tiny": TINY, "base": BASE, "large": LARGE}
TEXTS = (  # their lengths differ, so that there is padding
    "The tower is 324 metres tall, about the same height as an 81-storey building, and the tallest structure in Paris.",
    "A library that reads and writes compressed archives, with bindings for several programming languages. It can "
    "recover what is left of damaged files, and it checks signatures before anything is unpacked.",
    "Command line tool to convert images.",
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.report", description=__doc__.partition("\n")[0])
    shapes = ", ".join((*SHAPES, *relatives.SHAPES))
    parser.add_argument("checkpoint", nargs="?", help=f"folder, hub id, or {shapes}; the embedded one by default")
    parser.add_argument("--float32", action="store_true", help="omit the rows in float64")
    options = parser.parse_args(arguments)
    name = options.checkpoint or embedded().name
    table: Iterator[Row]
    if options.checkpoint and (family := relatives.family_of(options.checkpoint)):
        pair = relatives.open_checkpoint(options.checkpoint, family)
        table = relatives.report(pair, float64=not options.float32)
    else:
        pair, model = open_checkpoint(options.checkpoint)
        table = report(pair, model, float64=not options.float32)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(pair.params))
    print(f"{name} ({parameters:,} parameters) against PyTorch")
    print(versions())
    print(f"\n   {'':<46} {'difference':>10} {'tolerance':>10}")
    done = []
    for row in table:
        done.append(row)
        print(row, flush=True)
    failed = [row for row in done if not row.holds]
    print(f"\n{'❌' if failed else '✅'} {len(done) - len(failed)} of {len(done)} hold")
    return 1 if failed else 0


def open_checkpoint(checkpoint: str | None) -> tuple[Twin, Model]:
    if checkpoint in SHAPES:
        pair = twin(**SHAPES[checkpoint])
        return pair, pair.model
    model = load(checkpoint)
    folder = embedded() if checkpoint is None else find_folder(checkpoint)
    theirs = BartForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    params = {name: model.params[name] for name in param_shapes(model.config)}  # without those of a classification head
    return Twin(theirs, params, model.config), model


def versions() -> str:
    return (
        f"jax {jax.__version__} on {jax.default_backend()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    )


def inputs(model: Model) -> dict[str, np.ndarray]:
    """A padded batch, whose labels are -100 at padding: TEXTS if the checkpoint has a tokenizer, else random ids."""
    if model.tokenizer is None:
        return batch(model.config, B=3, S=24, T=12)
    sources = [truncate(encode_text(model.tokenizer, text), model.config.max_position_embeddings) for text in TEXTS]
    ids, mask = pad(sources, model.config.pad_token_id)
    targets = [truncate(row, 12) for row in sources]
    labels, real = pad(targets, -100)
    start = np.full((len(targets), 1), model.config.decoder_start_token_id)
    shifted = np.concatenate([start, np.where(real, labels, model.config.pad_token_id)[:, :-1]], 1)
    x = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": shifted, "labels": np.where(real, labels, -100)}
    return {name: np.asarray(array, np.int32) for name, array in x.items()}


def report(pair: Twin, model: Model, float64: bool = True) -> Iterator[Row]:
    """Yields each row as soon as it is computed."""
    x = inputs(model)
    x.pop("decoder_attention_mask", None)
    shape = f"{len(x['input_ids'])} rows, source {x['input_ids'].shape[1]}, target {x['labels'].shape[1]}"
    yield rows.parameters(revert(pair.params, pair.config), pair.torch)
    yield Row("logits, float32", relative(logits(pair, x), torch_logits(pair, x)), 1e-5, shape)
    if pair.config.activation_function == "gelu" and not pair.config.scale_embedding:
        line = jax.jit(bart)(pair.params, x["input_ids"], x["attention_mask"], x["decoder_input_ids"])
        yield Row("logits of the one line, float32", relative(line, torch_logits(pair, x)), 1e-5)
    yield from generations(pair, model, x)
    yield from losses_and_gradients(pair, x, float64)


def generations(pair: Twin, model: Model, x: dict[str, np.ndarray]) -> Iterator[Row]:
    prepared = prepare(model)
    source = {name: x[name] for name in ("input_ids", "attention_mask")}
    length = min(24, pair.config.max_position_embeddings)
    for what, options in (
        ("greedy", {"num_beams": 1, "do_sample": False, "max_length": length}),
        ("4 beams", {"num_beams": 4, "do_sample": False, "max_length": length}),
        ("the checkpoint's options", {}),
    ):
        ours = generate(prepared, **source, **options)
        inputs = {name: torch.tensor(array).long() for name, array in source.items()}
        with warnings.catch_warnings(action="ignore"):  # transformers warns if max_length is missing
            theirs = pair.torch.generate(**inputs, **options, return_dict_in_generate=True, output_scores=True)
        tokens = theirs.sequences.numpy()
        width = max(tokens.shape[1], ours.sequences.shape[1])
        a, b = (np.pad(s, ((0, 0), (0, width - s.shape[1])), constant_values=-1) for s in (ours.sequences, tokens))
        yield Row(f"generated tokens, {what}", int((a != b).sum()), 0, f"{int(ours.lengths.sum())} tokens")
        if (scores := getattr(theirs, "sequences_scores", None)) is not None:
            yield Row(f"scores, {what}", float(np.abs(ours.sequences_scores - scores.numpy()).max()), 1e-5)


def losses_and_gradients(pair: Twin, x: dict[str, np.ndarray], float64: bool) -> Iterator[Row]:
    """Loss and gradients with label smoothing 0.1, and the loss without smoothing."""
    our_loss, their_loss = gradients.ours(pair, x)[0], gradients.theirs(pair, x)[0]
    yield Row("loss, float32", abs(our_loss - their_loss) / their_loss, 1e-5, f"{our_loss:.4f}")
    ours, theirs = gradients.ours(pair, x, 0.1), gradients.theirs(pair, x, 0.1)
    yield Row("loss with label smoothing, float32", abs(ours[0] - theirs[0]) / theirs[0], 1e-5, f"{ours[0]:.4f}")
    whole = gradients.norm(theirs[1])
    yield Row(
        "gradient of final_logits_bias", float(np.abs(ours[1]["final_logits_bias"]).max()), 0, "a buffer: exactly 0"
    )
    if not float64:
        yield Row("gradient, whole, float32", gradients.distance(theirs[1], ours[1]) / whole, 1e-4, f"norm {whole:.3g}")
        return
    # bart-large's gradient in float64 takes 3.2 GB. PyTorch's is computed before our float64 parameters exist, and both
    # float32 gradients are freed before our float64 gradient is computed. That reduces the peak from 24 to 16 GB.
    with jax.enable_x64(True):
        pair.torch.double()
        truth, true_logits = gradients.theirs(pair, x, 0.1), torch_logits(pair, x)
        yield rows.float32_gradient(ours[1], theirs[1], truth[1])
        del ours, theirs
        wide = of(pair.torch)
        pair.torch.float()  # exact, because the weights were float32 before
        yield Row("logits, float64", relative(logits(wide, x), true_logits), 1e-12)
        yield from rows.float64("loss with label smoothing", gradients.ours(wide, x, 0.1), truth)


if __name__ == "__main__":
    sys.exit(main())
