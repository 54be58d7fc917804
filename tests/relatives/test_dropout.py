"""Dropout happens in every place where PyTorch's BERT and T5 have it, at its rate, and nowhere else.

tests/model/test_dropout.py explains how distributions are compared. RoBERTa's layer is the same as BERT's.
"""

from typing import Any

import bert_oneliner
import jax
import numpy as np
import pytest
import t5_oneliner
import torch
from scipy import stats

from tests.distributions import FALSE_ALARM, assert_same_distribution
from tests.relatives.twins import LOSS, Twin, batch, logits, no_cache, tensors, torch_logits, twin
from tests.twins import assert_close

N, T, S, RATE = 4000, 3, 4, 0.3
BERT = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 20, "gain": 2.0}
BERT |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_hidden_layers": 2}
T5 = {"d_model": 8, "d_kv": 4, "num_heads": 2, "d_ff": 12, "vocab_size": 20, "gain": 1.5, "num_decoder_layers": 2}


def training(name: str, **fields: Any) -> Twin:
    a = twin(name, **fields)
    a.torch.train()
    torch.manual_seed(0)
    return a


def hidden(length: int, seed: int) -> np.ndarray:
    """(N,length,8): one random row of hidden states, repeated."""
    return np.repeat(np.random.default_rng(seed).normal(size=(1, length, 8)).astype(np.float32), N, axis=0)


def first(layers: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], layers)


@torch.no_grad()
@pytest.mark.parametrize("rate", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_berts_layer(rate: str) -> None:
    a = training("bert", **{**BERT, rate: RATE})
    x, mask, p = hidden(T, 0), np.ones((1, 1, 1, T), bool), first(a.params["layers"])
    theirs = a.torch.bert.encoder.layer[0](torch.tensor(x))
    ours = jax.jit(lambda x, key: bert_oneliner.layer(x, mask, a.config, key, **p))(x, jax.random.key(0))
    assert_same_distribution(ours, theirs)


@torch.no_grad()
def test_berts_encoder() -> None:
    """Embedding and two layers with both rates: each place and each layer has an independent mask."""
    a = training("bert", **{**BERT, "hidden_dropout_prob": RATE, "attention_probs_dropout_prob": RATE})
    ids = np.repeat(batch(a, B=1, S=T)["input_ids"], N, axis=0)
    theirs = a.torch.bert(torch.tensor(ids).long()).last_hidden_state
    ours = bert_oneliner.encode(a.params, a.config, ids, np.ones_like(ids), key=jax.random.key(0))
    assert_same_distribution(ours, theirs)


@torch.no_grad()
def test_berts_head_drops_nothing() -> None:
    a = training("bert", **{**BERT, "hidden_dropout_prob": RATE})
    x = hidden(T, 0)[:4]
    theirs = a.torch.cls(torch.tensor(x)).numpy()
    assert_close(bert_oneliner.lm_head(a.params, a.config, x), theirs, 5e-6, "head in training")


@torch.no_grad()
@pytest.mark.parametrize("name", ["t5", "t5-v1.1"])
def test_t5s_decoder_layer(name: str) -> None:
    """Self-attention, cross-attention and the feed-forward part drop in six places, all at one rate."""
    a = training(name, **{**T5, "dropout_rate": RATE})
    x, memory, mask = hidden(T, 0), hidden(S, 1), np.tri(T, dtype=bool)[None, None]
    additive = torch.tensor(np.where(mask, 0, -1e9), dtype=torch.float32)
    theirs = a.torch.decoder.block[0](torch.tensor(x), additive, None, torch.tensor(memory))[0]
    bias = t5_oneliner.position_bias(a.params["decoder"], a.config, T, bidirectional=False)
    source, p = np.ones((1, 1, 1, S), bool), first(a.params["decoder"]["layers"])
    run = jax.jit(lambda x, memory, key: t5_oneliner.layer(x, bias, mask, memory, source, a.config, key, **p))
    assert_same_distribution(run(x, memory, jax.random.key(0)), theirs)


@torch.no_grad()
def test_t5s_encoder() -> None:
    """The embedding and the last norm are followed by dropout too, and each layer has independent masks."""
    a = training("t5", **{**T5, "dropout_rate": RATE})
    ids = np.repeat(batch(a, B=1, S=T)["input_ids"], N, axis=0)
    theirs = a.torch.encoder(torch.tensor(ids).long()).last_hidden_state
    ours = t5_oneliner.encode(a.params, a.config, ids, np.ones_like(ids), key=jax.random.key(0))
    assert_same_distribution(ours, theirs)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_without_a_key_nothing_is_dropped(name: str) -> None:
    rates = {"dropout_rate": 0.9} if name == "t5" else {"hidden_dropout_prob": 0.9, "attention_probs_dropout_prob": 0.9}
    a = twin(name, **rates)
    x = batch(a)
    assert_close(logits(a, x), torch_logits(a, x), 5e-6, "logits at inference")

    def forward(seed: int) -> np.ndarray:
        arrays = {name: x[name] for name in a.family.inputs}
        return np.asarray(a.family.page.forward(a.params, a.config, **arrays, dropout_key=jax.random.key(seed)))

    np.testing.assert_array_equal(forward(0), forward(0))
    assert (forward(0) != forward(1)).any()


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_the_loss_in_training_is_pytorchs_in_distribution(name: str) -> None:
    """So the loss passes the dropout key on, in T5 to encoder and decoder."""
    fields = {**T5, "dropout_rate": 0.2} if name == "t5" else {**BERT, "hidden_dropout_prob": 0.2}
    a = twin(name, **fields)
    x = {n: array for n, array in batch(a).items() if n in LOSS}
    loss = a.family.page.loss
    keys = jax.random.split(jax.random.key(0), 200)
    ours = jax.lax.map(lambda key: loss(a.params, a.config, **x, dropout_key=key), keys)
    torch.manual_seed(0)
    a.torch.train()
    with torch.no_grad():
        theirs = [a.torch(**tensors(x, LOSS), **no_cache(a)).loss.item() for _ in range(200)]
    assert stats.ttest_ind(ours, theirs, equal_var=False).pvalue > FALSE_ALARM
    assert stats.ks_2samp(ours, theirs).pvalue > FALSE_ALARM
