"""Tests token types, RoBERTa's positions and the pooler, which BART does not have, and BERT in one line."""

import ast
import symtable
from pathlib import Path
from typing import Any

import bert_oneliner
import jax
import numpy as np
import pytest
import torch
from bert_oneliner import Config, bert, encode, pool, positions
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel
from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

from tests.relatives.twins import (
    ENCODER,
    TINY_BERT,
    batch,
    float64,
    logits,
    state_dict,
    tensors,
    torch_logits,
    twin,
)
from tests.twins import assert_close, randomize

SOURCE = Path(bert_oneliner.__file__).read_text(encoding="utf-8")


def test_robertas_positions_count_from_the_padding_id() -> None:
    """Padding is on the right, on the left or inside, with two padding ids."""
    for pad in (1, 7):
        ids = np.array([[3, 4, 5, pad, pad], [pad, pad, 3, 4, 5], [3, pad, 4, pad, 5]], np.int32)
        ours = positions(Config(model_type="roberta", pad_token_id=pad), ids)
        theirs = RobertaEmbeddings.create_position_ids_from_input_ids(torch.tensor(ids).long(), pad)
        np.testing.assert_array_equal(ours, theirs.numpy())
        assert ours[0, 0] == pad + 1 and (np.asarray(ours)[ids == pad] == pad).all()


def test_padding_on_the_left_changes_a_text_in_bert_and_not_in_roberta() -> None:
    for name, shifts in (("bert", True), ("roberta", False)):
        a = twin(name)
        x = batch(a, B=1, S=9)
        wide = {n: np.pad(array, ((0, 0), (4, 0))) for n, array in x.items()}
        wide["input_ids"][:, :4] = a.config.pad_token_id
        difference = np.abs(logits(a, wide)[:, 4:] - logits(a, x)).max()
        assert (difference > 1e-2) == shifts, f"{name}: the logits change by {difference:.1e}"


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_missing_token_types_are_zero(name: str) -> None:
    a = twin(name)
    x = batch(a)
    with_types = logits(a, x)
    del x["token_type_ids"]
    assert_close(logits(a, x), torch_logits(a, x), 5e-6, "logits without token types")
    assert np.abs(logits(a, x) - with_types).max() > 1e-2, "token types make no difference"


@pytest.mark.parametrize("family", [(BertConfig, BertModel), (RobertaConfig, RobertaModel)], ids=["bert", "roberta"])
def test_hidden_states_and_pooler_are_pytorchs(family: Any) -> None:
    """Checkpoints of BertModel and RobertaModel have no head, and their parameters' names have no prefix."""
    model = family[1](family[0](**TINY_BERT)).eval()
    randomize(model)
    config = Config.from_json(model.config.to_dict())
    params = bert_oneliner.convert(state_dict(model), config)
    assert "lm_head" not in params and "pooler" in params
    x = batch(twin(config.model_type))
    hidden = encode(params, config, *(x[name] for name in ENCODER))
    with torch.no_grad():
        theirs = model(**tensors(x, ENCODER))
    assert_close(hidden, theirs.last_hidden_state.numpy(), 5e-6, "hidden states")
    assert_close(pool(params, hidden), theirs.pooler_output.numpy(), 5e-6, "pooler")


def test_neither_neighbors_nor_what_the_mask_hides_change_a_row() -> None:
    """No bit of a row's logits changes in one compiled shape, and a row of nothing but padding stays finite."""
    a = twin("bert")
    x, y = batch(a, B=4, seed=1), batch(a, B=4, seed=2)
    y["attention_mask"][3] = 0
    for name in x:
        y[name][1] = x[name][1]
    before, after = logits(a, x), logits(a, y)
    np.testing.assert_array_equal(before[1], after[1])
    assert np.isfinite(after).all()
    hidden = x["attention_mask"] == 0
    x["input_ids"] = np.where(hidden, 50, x["input_ids"])
    np.testing.assert_array_equal(logits(a, x)[~hidden], before[~hidden])


# ── The one line ──────────────────────────────────────────────────────────────────────────────────────────────────────

(LINE,) = [line for line in SOURCE.splitlines() if line.startswith("bert = ")]


def test_the_one_line_is_one_expression_whose_free_names_are_jax_and_jnp() -> None:
    (statement,) = ast.parse(LINE).body
    assert isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Lambda)
    assert ast.dump(ast.parse(SOURCE).body[-1]) == ast.dump(statement), (
        "it is not the last statement of bert_oneliner.py"
    )

    def tables(table: symtable.SymbolTable) -> list[symtable.SymbolTable]:
        return [table, *(inner for child in table.get_children() for inner in tables(child))]

    scopes = tables(symtable.symtable(LINE.removeprefix("bert = "), "the one line", "exec"))
    assert {symbol.get_name() for scope in scopes for symbol in scope.get_symbols() if symbol.is_global()} == {
        "jax",
        "jnp",
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_one_line_is_bert(seed: int) -> None:
    """Sizes are random, and the batch has padding."""
    rng = np.random.default_rng(seed)
    heads = [1, 2, 4][seed]
    a = twin("bert", seed, hidden_size=heads * 8, num_attention_heads=heads, num_hidden_layers=int(rng.integers(1, 4)))
    x = batch(a, *(int(n) for n in rng.integers(1, 12, 2)), seed=seed)
    assert_close(jax.jit(bert)(a.params, *(x[n] for n in ENCODER)), torch_logits(a, x), 5e-6, "the one line")


def test_the_one_line_is_bert_in_float64() -> None:
    with float64():
        a = twin("bert", dtype="float64")
        x = batch(a)
        assert_close(jax.jit(bert)(a.params, *(x[n] for n in ENCODER)), torch_logits(a, x), 1e-13, "the one line")
