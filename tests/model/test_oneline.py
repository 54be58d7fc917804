"""The one line is a single expression without helpers, and its logits are PyTorch's."""

import ast
import symtable
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from bart_oneliner import bart
from tests.twins import assert_close, batch, torch_logits, twin

SOURCE = (Path(__file__).resolve().parents[2] / "bart_oneliner.py").read_text(encoding="utf-8")
(LINE,) = [line for line in SOURCE.splitlines() if line.startswith("bart = ")]


def test_it_is_one_expression_on_one_physical_line() -> None:
    """It is an assignment of one lambda, alone on its line, and the last statement before the file's main block."""
    (statement,) = ast.parse(LINE).body
    assert isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Lambda), ast.dump(statement)[:99]
    *_, in_the_file, demo = ast.parse(SOURCE).body
    assert ast.dump(in_the_file) == ast.dump(statement) and isinstance(demo, ast.If)
    assert in_the_file.lineno == in_the_file.end_lineno


def test_its_only_free_names_are_jax_and_jnp() -> None:
    """So it calls no helper of the file, imports nothing, and uses no builtin such as exec or eval."""

    def tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
        yield table
        for child in table.get_children():
            yield from tables(child)

    expression = LINE.removeprefix("bart = ")
    scopes = tables(symtable.symtable(expression, "the one line", "exec"))
    free = {symbol.get_name() for scope in scopes for symbol in scope.get_symbols() if symbol.is_global()}
    assert free == {"jax", "jnp"}


@pytest.mark.parametrize("seed", range(3))
def test_its_logits_are_pytorchs(seed: int) -> None:
    """Sizes are random, inputs are padded. The one line uses XLA's default precision, which is float32 on a CPU."""
    rng = np.random.default_rng(seed)
    heads = [1, 2, 4][seed]
    fields = {name: int(rng.integers(1, 4)) for name in ("encoder_layers", "decoder_layers")}
    a = twin(seed, d_model=heads * 8, encoder_attention_heads=heads, decoder_attention_heads=2, **fields)
    x = batch(a.config, *(int(n) for n in rng.integers(1, 12, 3)), seed=seed)
    del x["decoder_attention_mask"]
    ours = jax.jit(bart)(a.params, x["input_ids"], x["attention_mask"], x["decoder_input_ids"])
    assert_close(ours, torch_logits(a, x), 5e-6, "the one line")


def test_its_logits_are_pytorchs_in_float64(x64: None) -> None:
    """So nothing in it is rounded to float32 or approximated."""
    a = twin(dtype="float64")
    x = batch(a.config)
    del x["decoder_attention_mask"]
    ours = jax.jit(bart)(a.params, x["input_ids"], x["attention_mask"], x["decoder_input_ids"])
    assert_close(ours, torch_logits(a, x), 1e-13, "the one line")


def test_it_runs_without_jit_and_a_row_of_padding_is_finite() -> None:
    a = twin()
    x = batch(a.config)
    x["attention_mask"][1] = 0
    ours = bart(a.params, x["input_ids"], x["attention_mask"], x["decoder_input_ids"])
    assert np.isfinite(np.asarray(ours)).all()
