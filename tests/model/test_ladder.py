"""Each part of BART equals PyTorch's module for the module's inputs: see tests/ladder.py."""

import functools
from typing import Any

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
from tests.ladder import MASKS, WHOLE, Case, assert_rung, masked
from tests.twins import FORWARD, assert_close, batch, logits, record, torch_logits, twin

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
# Every configuration with padding on the right, and every other mask with the configuration "tiny".
GRID = [(config, "padded right") for config in CONFIGS] + [("tiny", mask) for mask in MASKS[1:]]


@functools.partial(jax.jit, static_argnames="config")
def rungs(params: Params, config: Config, x: dict[str, jax.Array], seen: dict[str, list[jax.Array]]) -> dict[str, Any]:
    """Name of PyTorch's module -> output of our function for `seen`, the inputs that the module had."""

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


@pytest.fixture(scope="module", params=GRID, ids=lambda pair: ", ".join(pair))
def case(request: pytest.FixtureRequest) -> Case:
    config, mask = request.param
    a = twin(**CONFIGS[config])
    x = masked(batch(a.config, B=4, S=13, T=9), mask)
    recorded = record(a.torch, lambda: torch_logits(a, x))
    seen = {name.removeprefix("model."): value for name, value in recorded.items()}
    theirs = {name: output for name, (_, output) in seen.items()}
    # PyTorch's encoder and decoder return dataclasses; the last layer of each returns the states as an array.
    for side in ("encoder", "decoder"):
        theirs[side] = theirs[f"{side}.layers.{getattr(a.config, side + '_layers') - 1}"]
    theirs["lm_head"] = torch_logits(a, x)  # includes final_logits_bias, which PyTorch adds outside of lm_head
    inputs = {name: arrays for name, (arrays, _) in seen.items()}
    ours = rungs(a.params, a.config, {name: x[name] for name in FORWARD}, inputs)
    return Case(a, x, ours, theirs)


RUNGS = {  # part -> the end of the names of PyTorch's modules
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
        assert_rung(case, name)


def test_every_module_of_pytorch_is_a_rung(case: Case) -> None:
    """Only projections inside attention and embedding tables have no rung; the modules around them have one."""
    inside = ("q_proj", "k_proj", "v_proj", "out_proj", "shared", "embed_tokens", "embed_positions")
    assert {name for name in case.theirs if not name.endswith(inside)} == set(case.ours)


def test_logits(case: Case) -> None:
    assert_close(logits(case.twin, case.batch), torch_logits(case.twin, case.batch), WHOLE, "logits")


def test_without_a_decoder_mask_every_position_is_attended_to() -> None:
    """Without the mask, padding in decoder_input_ids is attended to.

    transformers does so too, although its docstring says that it makes a mask from decoder_input_ids.
    """
    a = twin()
    x = batch(a.config)
    masked = logits(a, x)
    x["decoder_input_ids"] = np.where(x["decoder_attention_mask"], x["decoder_input_ids"], a.config.pad_token_id)
    del x["decoder_attention_mask"]
    assert_close(logits(a, x), torch_logits(a, x), WHOLE, "logits")
    assert np.abs(logits(a, x) - masked).max() > 1e-2, "the mask makes no difference for this batch"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    """Inputs are from -12 to 12.

    The tolerance allows for the error of XLA's tanh, 2.3e-7, and shows gelu by tanh in place of gelu by erf: 5e-4.
    """
    x = np.linspace(-12, 12, 4801, dtype=np.float32)
    assert_close(ACTIVATIONS[name](jnp.asarray(x)), ACT2FN[name](torch.tensor(x)).numpy(), 3e-7, name)


@pytest.mark.parametrize("offset,scale", [(0, 1e-3), (0, 1), (0, 1e3), (100, 1)])
def test_layer_norm_of_inputs_large_and_small(offset: float, scale: float) -> None:
    """A wrong eps would show with small inputs, an inexact variance with inputs far from zero.

    The reference is PyTorch's result in float64. In 36 trials our float32 error was at most 3.0 times PyTorch's.
    """
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.normal(size=size).astype(np.float32) for size in ((5, 7, 64), (64,), (64,)))
    x = (offset + scale * x).astype(np.float32)
    norm = torch.nn.LayerNorm(64)
    norm.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    with torch.no_grad():
        theirs, exact = norm(torch.tensor(x)).numpy(), norm.double()(torch.tensor(x).double()).numpy()
    ours = np.asarray(layer_norm(jnp.asarray(x), jnp.asarray(weight), jnp.asarray(bias)))
    error, allowed = np.abs(ours - exact).max(), 4 * np.abs(theirs - exact).max()
    assert error <= allowed, f"{error:.1e} from the float64 value; four times PyTorch's own distance is {allowed:.1e}"


@pytest.mark.parametrize("config", ["tiny", "wide, scaled embeddings, tanh"])
def test_logits_in_float64(x64: None, config: str) -> None:
    """In float64 the difference is under 1e-13; rounding to float32 anywhere inside would cause one of 1e-8."""
    a = twin(dtype="float64", **CONFIGS[config])
    x = batch(a.config)
    assert_close(logits(a, x), torch_logits(a, x), 1e-13, "logits")


@pytest.mark.parametrize("B,S,T", [(1, 1, 1), (2, 48, 48)])
def test_logits_at_the_edges_of_the_shapes(B: int, S: int, T: int) -> None:
    """One row of one token, and rows as long as the position table, which has 48 positions."""
    a = twin()
    x = batch(a.config, B=B, S=S, T=T)
    assert_close(logits(a, x), torch_logits(a, x), WHOLE, f"{B, S, T}")
