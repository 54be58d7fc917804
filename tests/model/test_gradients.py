"""The loss and the gradient of every parameter equal PyTorch's.

In float64 each tensor's gradient differs from PyTorch's by at most 1e-9 of the whole gradient's norm (the largest known
difference is 3e-14). In float32 both frameworks round, and neither is exact: our gradient is at most twice as far from
the float64 gradient as PyTorch's (known ratios are 0.1 to 1.1).
"""

from typing import Any

import jax
import numpy as np
import pytest
import torch

from bart_oneliner import Params, encode
from tests.gradients import Gradient, assert_equal, distance, norm, ours, theirs
from tests.twins import BASE, LARGE, Twin, assert_close, batch, logits, of, torch_logits, twin

KEY_BIASES = tuple(
    f"{attention}.k_proj.bias"
    for attention in ("encoder.layers.self_attn", "decoder.layers.self_attn", "decoder.layers.encoder_attn")
)

CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "scaled, relu, pad 0, steep": {
        "scale_embedding": True,
        "activation_function": "relu",
        "pad_token_id": 0,
        "bos_token_id": 1,
        "gain": 3.0,
    },
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("config", CONFIGS)
def test_loss_and_gradients_in_float64(x64: None, config: str, smoothing: float) -> None:
    """The batch has padded sources, labels of -100, and the padding token as a label, which counts in the loss."""
    a = twin(dtype="float64", **CONFIGS[config])
    x = batch(a.config, B=4)
    x["labels"][0, 2] = a.config.pad_token_id
    assert (x["labels"] == -100).any() and (x["attention_mask"] == 0).any()
    assert_equal(ours(a, x, smoothing), theirs(a, x, smoothing))


def test_gradients_as_steep_as_those_of_bart_large(x64: None) -> None:
    """Each tensor's gradient has a norm above 100, except those that are zero but for rounding."""
    model = twin(dtype="float64").torch
    with torch.no_grad():
        model.model.shared.weight *= 100
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight") or "layernorm" in name:
                parameter *= 20
    a = of(model)
    x = batch(a.config, B=4)
    reference = theirs(a, x)
    small = {name: float(np.linalg.norm(g)) for name, g in reference[1].items() if np.linalg.norm(g) <= 100}
    assert small.keys() == {"final_logits_bias", *KEY_BIASES}, f"these gradients have norms of at most 100: {small}"
    assert_equal(ours(a, x), reference)


@pytest.fixture(scope="module")
def exact() -> tuple[Twin, dict[str, np.ndarray], Gradient, Gradient]:
    """A tiny twin in float64, a batch, our gradient and PyTorch's."""
    with jax.enable_x64(True):
        a = twin(dtype="float64")
        x = batch(a.config, B=4)
        x["input_ids"][0, 3] = a.config.pad_token_id  # padding that is attended to
        return a, x, ours(a, x)[1], theirs(a, x)[1]


def test_final_logits_bias_has_no_gradient(exact: Any) -> None:
    """final_logits_bias is a buffer in PyTorch, not a parameter, so its gradient must be exactly zero."""
    _, _, gradient, _ = exact
    assert not gradient["final_logits_bias"].any()


def test_key_biases_have_no_gradient(exact: Any) -> None:
    """A key bias adds the same number to all scores of a query, which does not change their softmax.

    So its gradient is zero but for rounding, in PyTorch too, and cannot be compared relative to its own size.
    """
    _, _, *gradients = exact
    for gradient in gradients:
        for name in KEY_BIASES:
            assert np.linalg.norm(gradient[name]) <= 1e-14 * norm(gradient), name
            others = name.replace("k_proj", "q_proj")
            assert np.linalg.norm(gradient[others]) >= 1e-4 * norm(gradient), f"the gradient of {others} is zero too"


def test_a_key_bias_does_not_change_the_logits(x64: None) -> None:
    """Logits stay the same if 3 is added to every key bias."""
    a = twin(dtype="float64")
    x = batch(a.config)
    before = logits(a, x)
    for side, attention in (("encoder", "self_attn"), ("decoder", "self_attn"), ("decoder", "encoder_attn")):
        a.params[side]["layers"][attention]["k_proj"]["bias"] += 3.0
    assert_close(logits(a, x), before, 1e-13, "logits with other key biases")


def test_lookups_give_the_padding_row_nothing(x64: None, exact: Any) -> None:
    """Lookups give the padding token's row no gradient (torch's padding_idx), but the tied head gives it one."""
    a, x, gradient, _ = exact
    mask = np.ones_like(x["attention_mask"])

    def through_lookups(params: Params) -> jax.Array:
        return (encode(params, a.config, x["input_ids"], mask) ** 3).sum()

    shared = jax.grad(through_lookups)(a.params)["shared"]
    encoder = a.torch.get_encoder()
    states = encoder(torch.tensor(x["input_ids"]).long(), attention_mask=torch.tensor(mask)).last_hidden_state
    (reference,) = torch.autograd.grad((states**3).sum(), a.torch.model.shared.weight)
    assert not shared[a.config.pad_token_id].any(), "the padding row has a gradient from lookups"
    assert_close(shared, reference.numpy(), 1e-12, "gradient of the embedding through the encoder")
    assert gradient["shared"][a.config.pad_token_id].any(), "the padding row has no gradient from the head"


def test_unused_positions_have_no_gradient(exact: Any) -> None:
    """These are rows 0 and 1 of the position table, which BART's offset skips, and those beyond the longest row."""
    _, x, gradient, _ = exact
    for side, name in (("encoder", "input_ids"), ("decoder", "labels")):
        used = gradient[f"{side}.embed_positions"].any(-1)
        assert used.nonzero()[0].tolist() == list(range(2, 2 + x[name].shape[1])), side


def test_a_batch_without_any_label_has_no_finite_loss() -> None:
    """The mean over no labels is NaN, as in torch."""
    a = twin()
    x = batch(a.config)
    x["labels"][:] = -100
    assert np.isnan(ours(a, x)[0]) and np.isnan(theirs(a, x)[0])


def compare_in_float32(a: Twin, x: dict[str, np.ndarray], smoothing: float, truth: tuple[float, Gradient]) -> float:
    """Our float32 gradient's distance from the float64 gradient, divided by PyTorch's; checks both losses first."""
    value, gradient = ours(a, x, smoothing)
    their_value, their_gradient = theirs(a, x, smoothing)
    assert value == pytest.approx(truth[0], rel=2e-6) and their_value == pytest.approx(truth[0], rel=2e-6)
    return distance(gradient, truth[1]) / distance(their_gradient, truth[1])


def test_gradients_in_float32() -> None:
    """The mean ratio over four batches is checked, because the ratio of one tiny batch varies much."""
    distances = []
    for seed in range(4):
        fields = {"seed": seed, "d_model": 96, "encoder_ffn_dim": 200}
        with jax.enable_x64(True):
            exact = twin(dtype="float64", **fields)
            x = batch(exact.config, B=4, seed=seed)
            truth = ours(exact, x, 0.1)
        distances.append(compare_in_float32(twin(**fields), x, 0.1, truth))
    assert np.mean(distances) <= 2 and max(distances) <= 3, distances


@pytest.mark.parametrize("shape", [BASE, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["bart-base", "bart-large"])
def test_published_shapes(shape: dict[str, Any]) -> None:
    """Logits, loss and gradients agree, with label smoothing. bart-large in float64 needs 18 GB of memory."""
    a = twin(**shape)
    x = batch(a.config, B=2, S=24, T=12)
    assert_close(logits(a, x), torch_logits(a, x), 5e-6, "logits")
    with jax.enable_x64(True):
        wide = of(a.torch.double())
        truth = theirs(wide, x, 0.1)
        assert_equal(ours(wide, x, 0.1), truth)
    del wide
    ratio = compare_in_float32(a._replace(torch=a.torch.float()), x, 0.1, truth)
    assert ratio <= 2, f"our gradient is {ratio:.2f} times as far from the float64 one as PyTorch's"
