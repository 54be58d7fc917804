"""Initial parameters of BERT, RoBERTa and T5 are drawn from PyTorch's distribution, tensor by tensor.

A correct program fails a test here with a probability of at most 1e-6. Seeds are fixed, so it fails always or never.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5_oneliner
import torch
from scipy import stats
from transformers import T5Config

from bart_oneliner import Params
from tests.distributions import FALSE_ALARM, assert_normal, assert_uncorrelated
from tests.relatives.twins import FAMILIES, batch, model, of, state_dict
from tests.twins import flat

SIZES: dict[str, dict[str, Any]] = {  # large enough to estimate a deviation from one tensor
    "bert": {"vocab_size": 500, "hidden_size": 96, "initializer_range": 0.05, "pad_token_id": 3},
    "roberta": {"vocab_size": 500, "hidden_size": 96, "initializer_range": 0.05, "pad_token_id": 3},
    "t5": {"vocab_size": 500, "d_model": 96, "d_kv": 24, "d_ff": 200, "initializer_factor": 0.5},
    "t5-v1.1": {"vocab_size": 500, "d_model": 96, "d_kv": 24, "d_ff": 200, "initializer_factor": 0.5},
}


def theirs(name: str, seed: int = 0) -> tuple[Params, Any]:
    torch.manual_seed(seed)
    a = of(name, model(name, **SIZES[name]))
    return a.params, a.config


def deviation(config: Any, name: str) -> float:
    """The standard deviation of a tensor's initial distribution."""
    if config.__class__ is not t5_oneliner.Config:
        return config.initializer_range
    D, K, H, F = config.d_model, config.d_kv, config.num_heads, config.d_ff
    widths = {"shared": 1, "lm_head": 1, "q_proj.weight": D * K, "out_proj.weight": H * K, "fc2.weight": F}
    width = next((width for end, width in widths.items() if name.endswith(end)), D)
    factor = 1.0 if name == "lm_head" else config.initializer_factor  # tests.relatives.twins.untie draws the head
    return factor * width**-0.5


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_is_drawn_as_pytorchs(name: str) -> None:
    """Our tensors and PyTorch's have the expected distribution; ours are uncorrelated and depend on the key."""
    reference, config = theirs(name)
    page = FAMILIES[name].page
    samples = {"PyTorch's": flat(reference), "ours": flat(page.init(config, jax.random.key(0)))}
    drawn = [n for n, a in samples["PyTorch's"].items() if a.std() > 0 and "norm" not in n]
    assert len(drawn) == {"bert": 10, "roberta": 10, "t5": 19, "t5-v1.1": 22}[name], drawn
    padded = {"bert": ["shared"], "roberta": ["shared", "embed_positions"]}.get(name, [])
    for who, tensors in samples.items():
        for n, a in tensors.items():
            assert a.dtype == np.float32 and a.shape == samples["PyTorch's"][n].shape
            if n not in drawn:
                np.testing.assert_array_equal(a, samples["PyTorch's"][n], f"{who} {n}")
                continue
            if n in padded:
                assert not a[config.pad_token_id].any(), f"{who} {n}: the padding row is not zero"
                a = np.delete(a, config.pad_token_id, axis=0)
            ours_has_factor = who == "ours" and n == "lm_head"
            factor = config.initializer_factor if ours_has_factor else 1.0
            assert_normal(a, factor * deviation(config, n), f"{who} {n}")
    entries = {  # the last 400 entries of each tensor, or of each layer of a stacked one
        f"{n}[{i}]": layer.ravel()[-400:]
        for n in drawn
        for i, layer in enumerate(samples["ours"][n] if "layers" in n else [samples["ours"][n]])
        if layer.size >= 400
    }
    assert_uncorrelated(entries)
    again, other = (flat(page.init(config, jax.random.key(seed))) for seed in (0, 1))
    for n in drawn:
        np.testing.assert_array_equal(samples["ours"][n], again[n], n)
        assert (samples["ours"][n] != other[n]).any(), n


@pytest.mark.parametrize("name", ["bert", "roberta", "t5"])
def test_fresh_models_have_pytorchs_loss(name: str) -> None:
    """Compares the losses of twelve models of ours and of PyTorch's for one batch by Welch's t-test."""
    _, config = theirs(name)
    page = FAMILIES[name].page
    fresh = of(name, model(name, **SIZES[name]))
    x = {n: a for n, a in batch(fresh, B=4, S=20, T=16).items() if n in ("input_ids", "attention_mask", "labels")}
    ours = [float(page.loss(page.init(config, jax.random.key(seed)), config, **x)) for seed in range(12)]
    reference = [float(page.loss(theirs(name, seed)[0], config, **x)) for seed in range(12)]
    assert stats.ttest_ind(ours, reference, equal_var=False).pvalue > FALSE_ALARM, (np.mean(ours), np.mean(reference))


# ── T5: why its initialization has these numbers ──────────────────────────────────────────────────────────────────────

T5 = t5_oneliner.Config(vocab_size=1000, d_model=256, d_kv=64, d_ff=512, num_layers=2, num_heads=4)


def scores_deviation(config: t5_oneliner.Config, params: Params) -> float:
    """The standard deviation of the first encoder layer's attention scores, for random tokens."""
    ids = jnp.asarray(np.random.default_rng(0).integers(2, config.vocab_size, (2, 50)))
    p = jax.tree.map(lambda leaf: leaf[0], params["encoder"]["layers"])
    x = t5_oneliner.rms_norm(params["shared"][ids], **p["self_attn_layer_norm"], eps=1e-6)
    q, k = (jnp.einsum("btd,hdk->bhtk", x, p["self_attn"][name]["weight"]) for name in ("q_proj", "k_proj"))
    return float(jnp.einsum("bhtk,bhsk->bhts", q, k).std())


def test_unscaled_attention_needs_its_initialization() -> None:
    """T5 does not divide scores by √K; instead its initial query weights are smaller than its key weights by √K.

    So the initial scores have a standard deviation of 1. With larger query weights it would be √K = 8, and the softmax
    would nearly select one key.
    """
    params = t5_oneliner.init(T5, jax.random.key(0))
    assert scores_deviation(T5, params) == pytest.approx(1.0, rel=0.15)
    params["encoder"]["layers"]["self_attn"]["q_proj"]["weight"] *= T5.d_kv**0.5
    assert scores_deviation(T5, params) == pytest.approx(8.0, rel=0.15)


def first_loss(config: t5_oneliner.Config, params: Params) -> float:
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(2, config.vocab_size, (2, 4, 20))
    return float(t5_oneliner.loss(params, config, ids, np.ones_like(ids), labels))


def test_the_scale_before_the_head_makes_the_first_loss() -> None:
    """With the scale D^-1/2, initial logits have standard deviation 1 and the loss is near ln V; without it, √D.

    The initial loss is above ln V because the residual stream still contains the embedding of the decoder's input
    token, for which a tied head gives the highest logit.
    """
    separate = dataclasses.replace(T5, scale_decoder_outputs=False, tie_word_embeddings=False)
    tied = dataclasses.replace(T5, scale_decoder_outputs=False)  # what transformers 5 makes of an initial v1.1
    key, entropy = jax.random.key(0), math.log(T5.vocab_size)
    losses = [first_loss(config, t5_oneliner.init(config, key)) / entropy for config in (T5, separate, tied)]
    assert 1 < losses[0] < 1.5 and 5 < losses[1] < 10 and 15 < losses[2] < 30, losses


def test_transformers_draws_shared_from_the_standard_normal_and_v1_1s_head_is_the_same_matrix() -> None:
    """T5 v1.1 has a separate head, which should be drawn from N(0, 1) like `shared`, but transformers 5 ties it."""
    torch.manual_seed(0)
    sizes = {name: getattr(T5, name) for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")}
    v1_1 = {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}
    fresh = FAMILIES["t5-v1.1"].model(T5Config(**sizes, **v1_1))
    assert_normal(state_dict(fresh)["shared.weight"], 1.0, "shared")
    assert fresh.lm_head.weight is fresh.shared.weight
    ids = torch.randint(2, 1000, (4, 20))
    with torch.no_grad():
        loss = fresh(input_ids=ids, labels=ids).loss.item()
    assert loss > 8 * math.log(1000), f"the loss {loss:.1f} is that of scaled logits"
