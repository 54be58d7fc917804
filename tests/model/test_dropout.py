"""Dropout happens in every place where PyTorch has it, at its rate, and nowhere else.

Random numbers cannot be equal, but distributions can. Thousands of rows with the same input go through a module of
PyTorch in training mode and through our function, with one rate at a time, and every output must have the same
distribution. If dropout is missing in a place, or comes before instead of after an activation, means and distributions
differ; if a mask is used twice, correlations differ. A correct program fails a test here with a probability below 1e-6.
All seeds are fixed, so it fails always or never.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats

from bart_oneliner import Config, dropout, embed, encode, forward, layer, loss, run_layers
from tests.distributions import FALSE_ALARM, assert_same_distribution
from tests.twins import Twin, assert_close, batch, torch_logits, twin

N, T, S, RATE = 4000, 3, 4, 0.3
RATES = ("dropout", "attention_dropout", "activation_dropout")
# A large gain, so that attention is far from uniform, and few features, so that thousands of rows are fast.
SIZES = {"d_model": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "gain": 2.0, "vocab_size": 20}
SIZES |= {"encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "dropout": 0.0}


@pytest.fixture(params=RATES)
def a(request: pytest.FixtureRequest) -> Twin:
    """A twin with one of the rates, its torch model in training mode."""
    a = twin(**{**SIZES, request.param: RATE})
    a.torch.train()
    torch.manual_seed(0)
    return a


def hidden(length: int, seed: int) -> np.ndarray:
    """(N,length,D): one random row of hidden states, repeated."""
    row = np.random.default_rng(seed).normal(size=(1, length, SIZES["d_model"]))
    return np.repeat(row.astype(np.float32), N, axis=0)


def weights(a: Twin, side: str) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], a.params[side]["layers"])


@torch.no_grad()
def test_encoder_layer(a: Twin) -> None:
    x, mask = hidden(T, 0), np.ones((1, 1, 1, T), bool)
    theirs = a.torch.model.encoder.layers[0](torch.tensor(x), None)
    p = weights(a, "encoder")
    ours = jax.jit(lambda x, key: layer(x, mask, None, None, a.config, key, **p))(x, jax.random.key(0))
    assert_same_distribution(ours, theirs)


@torch.no_grad()
def test_decoder_layer(a: Twin) -> None:
    x, memory, mask = hidden(T, 0), hidden(S, 1), np.tri(T, dtype=bool)[None, None]
    additive = torch.tensor(np.where(mask, 0, -1e9), dtype=torch.float32)
    theirs = a.torch.model.decoder.layers[0](torch.tensor(x), additive, torch.tensor(memory), use_cache=False)
    source, p = np.ones((1, 1, 1, S), bool), weights(a, "decoder")
    run = jax.jit(lambda x, memory, key: layer(x, mask, memory, source, a.config, key, **p))
    ours = run(x, memory, jax.random.key(0))
    assert_same_distribution(ours, theirs)


def test_encoder() -> None:
    """Embedding and two layers with all rates: each place and each layer has an independent mask."""
    a = twin(**{**SIZES, **dict.fromkeys(RATES, RATE)})
    ids = np.repeat(batch(a.config, B=1, S=T)["input_ids"], N, axis=0)
    torch.manual_seed(0)
    with torch.no_grad():
        theirs = a.torch.train().model.encoder(torch.tensor(ids).long()).last_hidden_state
    ours = encode(a.params, a.config, ids, np.ones_like(ids), jax.random.key(0))
    assert_same_distribution(ours, theirs)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_embeddings(side: str) -> None:
    a = twin(**{**SIZES, "dropout": RATE})
    ids = np.repeat(batch(a.config, B=1, S=T)["input_ids"], N, axis=0)
    embeddings: list[torch.Tensor] = []
    module = getattr(a.torch.model, side).train()
    module.layers[0].register_forward_pre_hook(lambda _, args: embeddings.append(args[0]))
    torch.manual_seed(0)
    with torch.no_grad():
        module(torch.tensor(ids).long())
    ours = embed(a.params[side], a.params["shared"], ids, a.config, jax.random.key(0))
    assert_same_distribution(ours, embeddings[0])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_mean(rate: float) -> None:
    """Entries are kept independently, so that their count is binomial, and are divided by 1 − rate."""
    y = np.asarray(dropout(jnp.full((200, 300), 3.0), rate, jax.random.key(1)))
    kept = y != 0
    np.testing.assert_allclose(y[kept], 3.0 / (1 - rate), rtol=1e-6)
    for axis in (None, 0, 1):
        count = kept.sum(axis)
        p = stats.binom.cdf(count, kept.size // np.size(count), 1 - rate)
        assert np.minimum(p, 1 - p).min() > FALSE_ALARM / 1000, (
            f"the number of kept entries along axis {axis} is too unlikely"
        )


def test_layerdrop_skips_each_layer_by_itself_and_for_the_whole_batch() -> None:
    """Each subset of three layers runs with the expected frequency, in our code and in PyTorch's."""
    rate = 0.3
    a = twin(encoder_layers=3, encoder_layerdrop=rate, dropout=0.0)
    x = batch(a.config, B=2, S=5)
    arguments = x["input_ids"], x["attention_mask"]
    start = embed(a.params["encoder"], a.params["shared"], x["input_ids"], a.config)
    mask = x["attention_mask"].astype(bool)[:, None, None]
    outcomes = []
    for kept in itertools.product([False, True], repeat=3):
        layers = jax.tree.map(lambda leaf, kept=kept: leaf[np.array(kept)], a.params["encoder"]["layers"])
        outcomes.append(run_layers(layers, start, mask, None, None, a.config, 0.0, None))
    outcomes = np.stack(outcomes)

    def which(results: np.ndarray) -> np.ndarray:
        """The index in `outcomes` of each result; fails for a result that is not among them."""
        error = np.abs(results[:, None] - outcomes).max((2, 3, 4))
        assert (error.min(1) < 1e-5).all(), "a result belongs to no subset of layers, or its rows to different subsets"
        return error.argmin(1)

    keys = jax.random.split(jax.random.key(0), 1000)
    ours = which(np.asarray(jax.lax.map(lambda key: encode(a.params, a.config, *arguments, key), keys)))
    torch.manual_seed(0)
    encoder = a.torch.train().model.encoder
    inputs = {"input_ids": torch.tensor(arguments[0]).long(), "attention_mask": torch.tensor(arguments[1])}
    with torch.no_grad():
        theirs = which(np.stack([encoder(**inputs).last_hidden_state.numpy() for _ in range(200)]))
    expected = [rate ** (3 - sum(kept)) * (1 - rate) ** sum(kept) for kept in itertools.product([0, 1], repeat=3)]
    for who, sample in (("ours", ours), ("PyTorch's", theirs)):
        counts = np.bincount(sample, minlength=8)
        p = stats.chisquare(counts, np.array(expected) * len(sample)).pvalue
        assert p > FALSE_ALARM, f"{who}: {counts} where {np.round(np.array(expected) * len(sample))} were expected"


@pytest.mark.parametrize(
    "dropped,changed,matters",
    [("encoder", "encoder", False), ("encoder", "decoder", True), ("decoder", "decoder", False)],
)
def test_either_side_has_its_own_layerdrop(dropped: str, changed: str, matters: bool) -> None:
    """At rate 1 all layers of one side are skipped, so changing their weights has no effect; the other side's stay."""
    a = twin(dropout=0.0, **{f"{dropped}_layerdrop": 1.0})
    layers = jax.tree.map(lambda leaf: leaf * 1.5, a.params[changed]["layers"])
    other = a._replace(params={**a.params, changed: {**a.params[changed], "layers": layers}})
    key = jax.random.key(0)
    assert bool((run(a, key) != run(other, key)).any()) == matters


EVERYTHING = {**dict.fromkeys(RATES, 0.9), "encoder_layerdrop": 0.9, "decoder_layerdrop": 0.9}


def run(a: Twin, key: jax.Array | None, config: Config | None = None) -> np.ndarray:
    x = batch(a.config)
    names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    return np.asarray(forward(a.params, config or a.config, *(x[name] for name in names), dropout_key=key))


def test_without_a_key_nothing_is_dropped() -> None:
    a = twin(**EVERYTHING)
    assert_close(run(a, None), torch_logits(a, batch(a.config)), 5e-6, "logits at inference")


def test_with_rates_of_zero_a_key_changes_no_bit() -> None:
    a = twin(dropout=0.0)
    np.testing.assert_array_equal(run(a, jax.random.key(0)), run(a, None))


def test_the_key_decides() -> None:
    a = twin(dropout=0.1)
    first, again, other = (run(a, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_loss_in_training_is_pytorchs_in_distribution() -> None:
    """So the loss passes the dropout key on to encoder and decoder."""
    a = twin(**{**SIZES, "dropout": 0.2})
    x = batch(a.config)
    keys = jax.random.split(jax.random.key(0), 200)
    arrays = x["input_ids"], x["attention_mask"], x["labels"]
    ours = jax.lax.map(lambda key: loss(a.params, a.config, *arrays, dropout_key=key), keys)
    torch.manual_seed(0)
    inputs: dict[str, Any] = {n: torch.tensor(x[n]).long() for n in ("input_ids", "attention_mask", "labels")}
    a.torch.train()
    with torch.no_grad():
        theirs = [a.torch(**inputs, use_cache=False).loss.item() for _ in range(200)]
    assert stats.ttest_ind(ours, theirs, equal_var=False).pvalue > FALSE_ALARM
    assert stats.ks_2samp(ours, theirs).pvalue > FALSE_ALARM
