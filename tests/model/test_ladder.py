"""Each part of the model equals its Hugging Face twin, given the inputs that the twin had in a whole forward pass.

Every module of PyTorch's model records what goes in and what comes out; the same input through our function with the
same weights must give the same output. So a rung that fails names the part that is wrong, and errors cannot cancel.

Tolerances are relative to the largest output (see assert_close). 2e-6 is 16 spacings of float32; the largest difference
seen over all of this file is 6.3e-7 in one part, and 1.3e-6 through a whole model, where 5e-6 are allowed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from bart_oneliner import (
    ACTIVATIONS,
    Config,
    Params,
    attend,
    decode,
    embed,
    encode,
    layer,
    layer_norm,
    linear,
    lm_head,
    merge_heads,
    split_heads,
)
from tests.twins import FORWARD, Twin, assert_close, batch, logits, record, torch_logits, twin

PART, WHOLE = 2e-6, 5e-6

CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "steep attention": {"gain": 3.0},
    "eager attention": {"attn_implementation": "eager"},
    "one layer, one head, relu": {
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 1,
        "decoder_attention_heads": 1,
        "activation_function": "relu",
    },
    "heads of width one, gelu_new, other special ids": {
        "d_model": 6,
        "encoder_attention_heads": 6,
        "decoder_attention_heads": 6,
        "activation_function": "gelu_new",
        "pad_token_id": 0,
        "bos_token_id": 7,
        "eos_token_id": 8,
        "decoder_start_token_id": 9,
    },
    "uneven depths, silu": {"encoder_layers": 4, "decoder_layers": 1, "activation_function": "silu"},
    "wide, scaled embeddings, tanh": {
        "d_model": 96,
        "encoder_ffn_dim": 384,
        "decoder_ffn_dim": 200,
        "scale_embedding": True,
        "activation_function": "tanh",
    },
}
# How a mask padded on the right becomes another one. The decoder's stays as it is where it says None: padded on the
# left, its first positions might look nowhere, which test_isolation looks at.
MASKS: dict[str, tuple[Callable[[np.ndarray], np.ndarray] | None, ...]] = {
    "padded right": (None, None),
    "padded left": (lambda mask: mask[:, ::-1], None),
    "unpadded": (np.ones_like, np.ones_like),
    "holes": (lambda mask: np.random.default_rng(5).integers(0, 2, mask.shape) | (np.arange(mask.shape[1]) == 0),) * 2,
}
# Every configuration with padding, and every mask with the tiny one.
GRID = [(config, "padded right") for config in CONFIGS] + [("tiny", mask) for mask in list(MASKS)[1:]]


@functools.partial(jax.jit, static_argnames="config")
def rungs(params: Params, config: Config, x: dict[str, jax.Array], seen: dict[str, list[jax.Array]]) -> dict[str, Any]:
    """The same parts from our functions, under PyTorch's names for them, each from the inputs that PyTorch's had."""

    def attention(x: jax.Array, memory: jax.Array, mask: jax.Array, p: Params) -> jax.Array:
        q, k, v = split_heads(x, **p["q_proj"]), split_heads(memory, **p["k_proj"]), split_heads(memory, **p["v_proj"])
        return merge_heads(attend(q, k, v, mask), **p["out_proj"])

    T = x["decoder_input_ids"].shape[1]
    source = x["attention_mask"].astype(bool)[:, None, None]
    causal = jnp.tri(T, dtype=bool) & x["decoder_attention_mask"].astype(bool)[:, None, None]
    ours = {}
    for side, depth, ids, mask in (
        ("encoder", config.encoder_layers, x["input_ids"], source),
        ("decoder", config.decoder_layers, x["decoder_input_ids"], causal),
    ):
        ours[f"{side}.layernorm_embedding"] = embed(params[side], params["shared"], ids, config)
        for i in range(depth):
            at = f"{side}.layers.{i}"
            p = jax.tree.map(lambda leaf, i=i: leaf[i], params[side]["layers"])
            ours |= {f"{at}.{name}": layer_norm(*seen[f"{at}.{name}"], **p[name]) for name in p if "norm" in name}
            ours |= {f"{at}.{name}": linear(*seen[f"{at}.{name}"], **p[name]) for name in ("fc1", "fc2")}
            activation = ACTIVATIONS[config.activation_function]
            ours[f"{at}.activation_fn"] = activation(*seen[f"{at}.activation_fn"])
            (hidden,) = seen[f"{at}.self_attn"]
            ours[f"{at}.self_attn"] = attention(hidden, hidden, mask, p["self_attn"])
            memory = None
            if side == "decoder":
                hidden, memory = seen[f"{at}.encoder_attn"]
                ours[f"{at}.encoder_attn"] = attention(hidden, memory, source, p["encoder_attn"])
            ours[at] = layer(seen[at][0], mask, memory, source, config, None, **p)
    encoded = encode(params, config, x["input_ids"], x["attention_mask"])
    _, memory = seen["decoder.layers.0"]
    masks = x["attention_mask"], x["decoder_attention_mask"]
    decoded = decode(params, config, x["decoder_input_ids"], memory, *masks)
    return ours | {"encoder": encoded, "decoder": decoded, "lm_head": lm_head(params, *seen["lm_head"])}


class Case(NamedTuple):
    twin: Twin
    batch: dict[str, np.ndarray]
    ours: dict[str, np.ndarray]
    theirs: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=GRID, ids=lambda pair: ", ".join(pair))
def case(request: pytest.FixtureRequest) -> Case:
    config, mask = request.param
    a = twin(**CONFIGS[config])
    x = batch(a.config, B=4, S=13, T=9)
    for name, change in zip(("attention_mask", "decoder_attention_mask"), MASKS[mask], strict=True):
        x[name] = change(x[name]).astype(np.int32) if change else x[name]
    recorded = record(a.torch, lambda: torch_logits(a, x))
    seen = {name.removeprefix("model."): value for name, value in recorded.items()}
    theirs = {name: output for name, (_, output) in seen.items()}
    for side in ("encoder", "decoder"):  # these two give a dataclass; their last layer gives the same
        theirs[side] = theirs[f"{side}.layers.{getattr(a.config, side + '_layers') - 1}"]
    theirs["lm_head"] = torch_logits(a, x)  # with final_logits_bias, which BART adds outside of the module
    ours = rungs(a.params, a.config, {name: x[name] for name in FORWARD}, {name: i for name, (i, _) in seen.items()})
    return Case(a, x, ours, theirs)


RUNGS = {  # what is compared -> how PyTorch's names of it end
    "layer norm": "layer_norm",
    "embeddings": "layernorm_embedding",
    "self-attention": "self_attn",
    "cross-attention": "encoder_attn",
    "first linear": "fc1",
    "activation": "activation_fn",
    "second linear": "fc2",
    "layer": tuple("0123456789"),
    "encoder": "encoder",
    "decoder": "decoder",
    "head": "lm_head",
}


@pytest.mark.parametrize("rung", RUNGS)
def test_rung(case: Case, rung: str) -> None:
    names = [name for name in case.ours if name.endswith(RUNGS[rung])]
    assert names, f"no {rung} was compared"
    for name in names:
        assert_close(case.ours[name], case.theirs[name], WHOLE if name in ("encoder", "decoder") else PART, name)


def test_every_module_of_pytorch_is_a_rung(case: Case) -> None:
    """But for the projections inside attention, which are compared as a whole, and the embedding tables under embed."""
    inside = ("q_proj", "k_proj", "v_proj", "out_proj", "shared", "embed_tokens", "embed_positions")
    assert {name for name in case.theirs if not name.endswith(inside)} == set(case.ours)


def test_logits(case: Case) -> None:
    assert_close(logits(case.twin, case.batch), torch_logits(case.twin, case.batch), WHOLE, "logits")


def test_without_a_decoder_mask_every_position_is_attended_to() -> None:
    """Padding too, as in transformers, whose docstring says otherwise."""
    a = twin()
    x = batch(a.config)
    masked = logits(a, x)
    x["decoder_input_ids"] = np.where(x["decoder_attention_mask"], x["decoder_input_ids"], a.config.pad_token_id)
    del x["decoder_attention_mask"]
    assert_close(logits(a, x), torch_logits(a, x), WHOLE, "logits")
    assert np.abs(logits(a, x) - masked).max() > 1e-2, "the batch shows no difference"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    """Far into both tails. erf and its tanh approximation are 5e-4 apart; tanh itself is 2.3e-7 off in XLA."""
    x = np.linspace(-12, 12, 4801, dtype=np.float32)
    assert_close(ACTIVATIONS[name](jnp.asarray(x)), ACT2FN[name](torch.tensor(x)).numpy(), 3e-7, name)


@pytest.mark.parametrize("offset,scale", [(0, 1e-3), (0, 1), (0, 1e3), (100, 1)])
def test_layer_norm_of_inputs_large_and_small(offset: float, scale: float) -> None:
    """eps shows for small inputs, the way to compute a variance for those far from zero.

    The referee is float64. Of 36 trials the farthest from it against PyTorch's own distance was 3.0 times.
    """
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.normal(size=size).astype(np.float32) for size in ((5, 7, 64), (64,), (64,)))
    x = (offset + scale * x).astype(np.float32)
    norm = torch.nn.LayerNorm(64)
    norm.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    with torch.no_grad():
        theirs, exact = norm(torch.tensor(x)).numpy(), norm.double()(torch.tensor(x).double()).numpy()
    ours = np.asarray(layer_norm(*map(jnp.asarray, (x, weight, bias))))
    error, allowed = np.abs(ours - exact).max(), 4 * np.abs(theirs - exact).max()
    assert error <= allowed, f"{error:.1e} from the float64 value; four times PyTorch's own distance is {allowed:.1e}"


@pytest.mark.parametrize("config", ["tiny", "wide, scaled embeddings, tanh"])
def test_logits_in_float64(x64: None, config: str) -> None:
    """With rounding out of the way nothing is left: 1e-13, where one float32 inside would leave 1e-8."""
    a = twin(dtype="float64", **CONFIGS[config])
    x = batch(a.config)
    assert_close(logits(a, x), torch_logits(a, x), 1e-13, "logits")


@pytest.mark.parametrize("B,S,T", [(1, 1, 1), (2, 48, 48)])
def test_logits_at_the_edges_of_the_shapes(B: int, S: int, T: int) -> None:
    """One token, one row, and the whole position table (48)."""
    a = twin()
    x = batch(a.config, B=B, S=S, T=T)
    assert_close(logits(a, x), torch_logits(a, x), WHOLE, f"{B, S, T}")
