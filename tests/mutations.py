"""Checks that tests catch small mistakes in bart_oneliner.py: `python -m tests.mutations [NUMBER …]`.

Each entry of MUTATIONS makes one small change, such as a wrong sign, axis or offset, in a temporary copy that is
imported instead of bart_oneliner.py. The test file that should catch it runs first and then all of tests/model. The
name of the first test that fails is printed. The exit status is 0 if every mutation was caught.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis  # noqa: F401  (the imports marked F401 are made here once; the forked processes then have them)
import jax  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import torch  # noqa: F401
from transformers import BartForConditionalGeneration  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]


class Mutation(NamedTuple):
    what: str  # the heading in the printed table
    old: str  # text that occurs once in bart_oneliner.py
    new: str
    suspect: str = "ladder"  # the test file of tests/model that should catch it


MUTATIONS = [
    Mutation("gelu's tanh form", "gelu, approximate=False),  #", "gelu, approximate=True),  #"),
    Mutation("layer norm over the positions", "wide - wide.mean(-1, keepdims", "wide - wide.mean(-2, keepdims"),
    Mutation(
        "sample variance",
        ".mean(-1, keepdims=True) + 1e-5)",
        ".sum(-1, keepdims=True) / (x.shape[-1] - 1) + 1e-5)",
    ),
    Mutation("eps 1e-6", ".mean(-1, keepdims=True) + 1e-5)", ".mean(-1, keepdims=True) + 1e-6)"),
    Mutation("layer norm without its mean", "centered = wide - wide.mean(-1, keepdims=True)", "centered = wide"),
    Mutation("position offset 1", '["embed_positions"][2 : 2 +', '["embed_positions"][1 : 1 +'),
    Mutation("position offset 0", '["embed_positions"][2 : 2 +', '["embed_positions"][0 : 0 +'),
    Mutation("scale d_model instead of its root", "math.sqrt(config.d_model)", "config.d_model"),
    Mutation("no scale in attention", "scores * k.shape[-1] ** -0.5", "scores"),
    Mutation(
        "attention scaled by the width of the model",
        "scores * k.shape[-1] ** -0.5",
        "scores * (k.shape[-1] * k.shape[1]) ** -0.5",
    ),
    Mutation("softmax over the queries", "jax.nn.softmax(scores)", "jax.nn.softmax(scores, axis=-2)"),
    Mutation("softmax over the heads", "jax.nn.softmax(scores)", "jax.nn.softmax(scores, axis=1)"),
    Mutation("mask inverted", "jnp.where(mask, scores", "jnp.where(~mask, scores"),
    Mutation("masked scores zero", "jnp.finfo(scores.dtype).min)", "0.0)"),
    Mutation("masked scores minus infinity", "jnp.finfo(scores.dtype).min)", "-jnp.inf)", "isolation"),
    Mutation(
        "no query bias", 'einsum("btd,hdk->bhtk", x, weight) + bias[:, None]', 'einsum("btd,hdk->bhtk", x, weight)'
    ),
    Mutation("no residual", "layer_norm(x + dropout(y", "layer_norm(dropout(y"),
    Mutation("residual subtracted", "layer_norm(x + dropout(y", "layer_norm(x - dropout(y"),
    Mutation(
        "cross-attention of the source to itself",
        "attention(x, memory, memory_mask,",
        "attention(memory, memory, memory_mask,",
    ),
    Mutation("cross-attention without the source", "attention(x, memory, memory_mask,", "attention(x, x, mask,"),
    Mutation("causal mask shows the future only", "jnp.tril(", "jnp.triu("),
    Mutation(
        "causal mask shows the next position", "jnp.ones((1, 1, T, T), bool))", "jnp.ones((1, 1, T, T), bool), 1)"
    ),
    Mutation(
        "causal mask hides the position itself", "jnp.ones((1, 1, T, T), bool))", "jnp.ones((1, 1, T, T), bool), -1)"
    ),
    Mutation("decoder padding ignored", "mask &= decoder_attention_mask", "mask |= decoder_attention_mask"),
    Mutation("head with its bias subtracted", "return logits + jax.lax", "return logits - jax.lax"),
    Mutation(
        "head trains its bias",
        'jax.lax.stop_gradient(params["final_logits_bias"])',
        'params["final_logits_bias"]',
        "gradients",
    ),
    Mutation(
        "embedding lookups train the padding row",
        "jax.lax.stop_gradient(tokens), tokens)",
        "tokens, tokens)",
        "gradients",
    ),
    Mutation("labels not shifted", "[start, labels[:, :-1]]", "[start, labels[:, 1:]]", "gradients"),
    Mutation("labels of -100 counted", "/ counted.sum()", "/ counted.size", "gradients"),
    Mutation("smoothing with the opposite sign", "nll - label_smoothing *", "nll + label_smoothing *", "gradients"),
    Mutation("smoothing sums over the vocabulary", "log_probs.mean(-1)", "log_probs.sum(-1)", "gradients"),
    Mutation(
        "heads interleaved in conversion",
        "return a.reshape(H, K, D).swapaxes(1, 2)",
        "return a.reshape(K, H, D).transpose(1, 2, 0)",
    ),
    Mutation("a matrix not transposed in conversion", "return a.T.reshape(shape) if", "return a.reshape(shape) if"),
    Mutation("initial weights with half the deviation", "config.init_std * jax", "0.5 * config.init_std * jax", "init"),
    Mutation(
        "initial padding row not zero", ".at[config.pad_token_id].set(0.0)", ".at[config.pad_token_id].add(0.0)", "init"
    ),
    Mutation(
        "dropout keeps what it should drop",
        "bernoulli(key, 1.0 - rate, x.shape)",
        "bernoulli(key, rate, x.shape)",
        "dropout",
    ),
    Mutation("dropout without rescaling", "x / (1.0 - rate)", "x", "dropout"),
    Mutation(
        "activation dropout at the rate `dropout`", "config.activation_dropout, next", "config.dropout, next", "dropout"
    ),
    Mutation(
        "attention dropout at the rate `dropout`", "config.attention_dropout, next", "config.dropout, next", "dropout"
    ),
    Mutation("no dropout after the embedding", "return dropout(x, config.dropout, key)", "return x", "dropout"),
    Mutation(
        "layerdrop keeps what it should drop",
        "bernoulli(drop_key, layerdrop), x, y)",
        "bernoulli(drop_key, layerdrop), y, x)",
        "dropout",
    ),
    Mutation("greedy reads the logits of one position earlier", "[:, t - 1].argmax", "[:, t - 2].argmax", "greedy"),
    Mutation(
        "greedy goes on after the end", "token = jnp.where(done, config.pad_token_id, token)", "token = token", "greedy"
    ),
    Mutation(
        "one line: position offset",
        '["embed_positions"][2:ids.shape[1] + 2]',
        '["embed_positions"][1:ids.shape[1] + 1]',
        "oneline",
    ),
    Mutation(
        "one line: gelu's tanh form",
        'approximate=False), **layer["fc2"]',
        'approximate=True), **layer["fc2"]',
        "oneline",
    ),
    Mutation(
        "one line: causal mask off by one",
        "jnp.tri(decoder_input_ids.shape[1])",
        "jnp.tri(decoder_input_ids.shape[1], k=1)",
        "oneline",
    ),
]


def mutate(source: str, mutation: Mutation) -> str:
    if source.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.what}: {mutation.old!r} occurs {source.count(mutation.old)} times, not once")
    return source.replace(mutation.old, mutation.new)


class FirstFailure:
    """A pytest plugin that remembers which test failed first."""

    name = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid.removeprefix("tests/model/")


def first_failure(source: str, suspect: str) -> str:
    """Runs the tests with `source` as bart_oneliner.py in a child process.

    Returns the name of the first test that fails, or an empty string if all pass.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        failure = FirstFailure()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as output:
            (Path(folder) / "bart_oneliner.py").write_text(source, encoding="utf-8")
            sys.path.insert(0, folder)
            importlib.import_module("bart_oneliner")  # the changed file; when the tests import it, they get this module
            arguments = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
            for files in (f"tests/model/test_{suspect}.py", "tests/model"):
                status = failure.name or pytest.main([*arguments, files], plugins=[failure])
        failed = failure.name or (status and f"pytest did not run: {output.getvalue()[-2000:]}")
        os.write(writer, (failed or "").encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as result:
        name = result.read()
    os.waitpid(child, 0)
    return name


def main(numbers: list[str]) -> int:
    os.chdir(ROOT)
    source = (ROOT / "bart_oneliner.py").read_text(encoding="utf-8")
    mutants = [(n, mutation, mutate(source, mutation)) for n, mutation in enumerate(MUTATIONS, 1)]
    chosen = [mutant for mutant in mutants if not numbers or str(mutant[0]) in numbers]
    survivors = 0
    print("| | mutation | caught by |\n|---|---|---|")
    for n, mutation, mutant in chosen:
        caught = first_failure(mutant, mutation.suspect)
        survivors += not caught
        print(f"| {n} | {mutation.what} | {f'`{caught}`' if caught else '❌ nothing'} |", flush=True)
    print(f"\n{len(chosen) - survivors} of {len(chosen)} caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
