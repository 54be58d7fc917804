"""The loss and the gradient of every parameter of BERT, RoBERTa and T5 equal PyTorch's.

In float64 each tensor's gradient differs by at most 1e-9 of the whole gradient's norm. In float32 our gradient is at
most twice as far from the float64 gradient as PyTorch's. tests/model/test_gradients.py explains these tolerances.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bart_oneliner import Params
from tests.gradients import assert_equal, distance, norm
from tests.relatives.twins import FAMILIES, Twin, batch, float64, of, ours, theirs, twin
from tests.twins import assert_close

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "bert, relu, pad 7, steep": ("bert", {"hidden_act": "relu", "pad_token_id": 7, "gain": 3.0}),
    "roberta": ("roberta", {}),
    "t5": ("t5", {}),
    "t5, pad 5, steep": ("t5", {"pad_token_id": 5, "gain": 3.0}),
    "t5 v1.1": ("t5-v1.1", {}),
    "t5, gated and tied": ("t5", {"feed_forward_proj": "gated-gelu"}),
}


@pytest.mark.parametrize("config", CONFIGS)
def test_loss_and_gradients_in_float64(config: str) -> None:
    """The batch has padding and labels of -100; the padding token also occurs as an unmasked input and as a label."""
    name, fields = CONFIGS[config]
    with float64():
        a = twin(name, dtype="float64", **fields)
        x = batch(a, B=4)
        x["input_ids"][0, 3] = x["labels"][0, 0] = a.config.pad_token_id
        assert (x["labels"] == -100).any() and (x["attention_mask"] == 0).any()
        assert_equal(ours(a, x), theirs(a, x))


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_in_float32(name: str) -> None:
    """The mean ratio over four batches is checked, because the ratio of one tiny batch varies much."""
    distances = []
    for seed in range(4):
        a = twin(name, seed=seed)
        x = batch(a, B=4, seed=seed)
        mine, reference = ours(a, x), theirs(a, x)
        with float64():
            truth = theirs(of(name, a.torch.double()), x)
        assert mine[0] == pytest.approx(truth[0], rel=2e-6)
        distances.append(distance(mine[1], truth[1]) / distance(reference[1], truth[1]))
    assert np.mean(distances) <= 2 and max(distances) <= 3, distances


def attended_padding(name: str) -> tuple[Twin, dict[str, np.ndarray]]:
    a = twin(name, dtype="float64")
    x = batch(a, B=4)
    x["input_ids"][0, 3] = a.config.pad_token_id
    x["attention_mask"] = np.ones_like(x["attention_mask"])
    return a, x


@pytest.mark.parametrize("name,trained", [("bert", False), ("roberta", False), ("t5", True)])
def test_lookups_train_the_padding_row_in_t5_only(name: str, trained: bool) -> None:
    """In this batch padding is attended to. padding_idx, which T5's embedding lacks, stops the gradient of its row."""
    with float64():
        a, x = attended_padding(name)

        def through_lookups(params: Params) -> jax.Array:
            hidden = a.family.page.encode(params, a.config, x["input_ids"], jnp.asarray(x["attention_mask"]))
            return (hidden**3).sum()

        shared = jax.jit(jax.grad(through_lookups))(a.params)["shared"]
        encoder = a.torch.get_encoder() if name == "t5" else getattr(a.torch, name)
        states = encoder(torch.tensor(x["input_ids"]).long()).last_hidden_state
        (reference,) = torch.autograd.grad((states**3).sum(), a.torch.get_input_embeddings().weight)
        assert_close(shared, reference.numpy(), 1e-12, "gradient of the embedding through the encoder")
        assert bool(shared[a.config.pad_token_id].any()) == trained


def test_the_head_of_v1_1_and_its_embedding_have_different_gradients() -> None:
    with float64():
        a = twin("t5-v1.1", dtype="float64")
        x = batch(a)
        _, gradient = ours(a, x)
        assert gradient["lm_head"].shape == gradient["shared"].shape
        assert (gradient["lm_head"] != gradient["shared"]).any()


def test_key_biases_have_no_gradient() -> None:
    """Adding a key bias does not change a softmax. The head's bias has a gradient, unlike BART's, which is a buffer."""
    with float64():
        a = twin("bert", dtype="float64")
        x = batch(a, B=4)
        for gradient in (ours(a, x)[1], theirs(a, x)[1]):
            assert np.linalg.norm(gradient["layers.self_attn.k_proj.bias"]) <= 1e-14 * norm(gradient)
            assert np.linalg.norm(gradient["lm_head.bias"]) > 1e-2 * norm(gradient)
