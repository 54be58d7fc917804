"""Widens a model to twice its width with the same logits, so that a small trained model costs as much as a large one.

Every feature exists twice, with the same value, so each layer norm has the same mean and variance. The weights of a
matrix whose input is doubled are halved, so its sums stay the same. Heads are twice as wide, which doubles the products
of queries and keys; attention's scale, 1/√K, becomes smaller by √2, and the queries' weights are divided by √2 too. The
decoder's last layer norm is halved, because the output embedding multiplies doubled features. The vocabulary is filled
up with tokens that are never chosen.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from bart_inference.checkpoint import Model

from bart_oneliner import Array, Params

NEVER_CHOSEN = -1e4  # final_logits_bias of the tokens that are added to the vocabulary


def widen(model: Model, vocab_size: int = 50265) -> Model:
    """The model with twice the width and `vocab_size` tokens. Raises ValueError for a config with scale_embedding."""
    config = model.config
    if config.scale_embedding:
        raise ValueError("scale_embedding must be false: the scale depends on the width")
    params = model.params
    missing = vocab_size - config.vocab_size
    if missing < 0:
        raise ValueError(f"vocab_size must be at least the model's, {config.vocab_size}, got {vocab_size}")
    widened: Params = {
        "shared": jnp.pad(twice(params["shared"], -1), ((0, missing), (0, 0))),
        "encoder": widen_stack(params["encoder"]),
        "decoder": widen_stack(params["decoder"]),
        "final_logits_bias": jnp.pad(params["final_logits_bias"], (0, missing), constant_values=NEVER_CHOSEN),
    }
    last_norm = widened["decoder"]["layers"]["final_layer_norm"]
    for name in ("weight", "bias"):
        last_norm[name] = last_norm[name].at[-1].multiply(0.5)
    wide_config = dataclasses.replace(
        config,
        vocab_size=vocab_size,
        d_model=2 * config.d_model,
        encoder_ffn_dim=2 * config.encoder_ffn_dim,
        decoder_ffn_dim=2 * config.decoder_ffn_dim,
    )
    return dataclasses.replace(model, tensors=widened, config=wide_config, dtype=None)


def widen_stack(stack: Params) -> Params:
    """Widens the encoder's or the decoder's parameters. The arrays of its layers are stacked along a leading axis L."""
    layers = {}
    for name, part in stack["layers"].items():
        if name in ("self_attn", "encoder_attn"):
            layers[name] = widen_attention(part)
        elif name in ("fc1", "fc2"):
            layers[name] = widen_linear(part)
        else:  # layer norms
            layers[name] = jax.tree.map(lambda array: twice(array, -1), part)
    return {
        "embed_positions": twice(stack["embed_positions"], -1),
        "layernorm_embedding": jax.tree.map(lambda array: twice(array, -1), stack["layernorm_embedding"]),
        "layers": layers,
    }


def widen_linear(p: Params) -> Params:
    """Widens a linear layer, weight (L,D,F) and bias (L,F), to weight (L,2D,2F) and bias (L,2F)."""
    return {"weight": twice(twice(p["weight"], -2) / 2, -1), "bias": twice(p["bias"], -1)}


def widen_attention(p: Params) -> Params:
    """Widens attention: projections to heads, weight (L,H,D,K), bias (L,H,K), and the output's, (L,H,K,D) and (L,D)."""
    widened = {name: widen_linear(p[name]) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
    # Products of doubled queries and keys are twice as large, and are scaled by 1/√(2K) instead of 1/√K.
    widened["q_proj"] = jax.tree.map(lambda array: array / math.sqrt(2), widened["q_proj"])
    return widened


def twice(array: Array, axis: int) -> Array:
    return jnp.concatenate([array, array], axis)
