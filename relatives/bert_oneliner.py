"""BERT and RoBERTa in one file, for readers of `bart_oneliner.py`. Functions that are equal are imported from there.

BERT is BART's encoder with a head. This differs from BART, in the order of this file:

    decoder      There is none, and so no cross-attention and no generation.
    layer norm   eps is in the config: 1e-12 in BERT, BART's 1e-5 in RoBERTa.
    positions    They begin at row 0 of the table, BART's at row 2.
    embeddings   After tokens and positions a third table, `embed_types`, says which part of the input a token is in.
    dropout      There is none after the activation of the feed-forward part. Attention's default rate is 0.1, not 0.
    pooler       An optional linear layer and tanh over the first token, for tasks about the whole text.
    head         A linear layer, the activation and a norm come before the output embedding. Its bias is trained,
                 which BART's is not.
    loss         Each masked token is predicted at its own position: labels are not shifted.

RoBERTa differs from BERT in this:

    padding      Its id is 1, BERT's 0. It has a row of the position table, number 1, which is not trained either.
    positions    Only tokens that are not padding are counted, from row 2 on. The two rows before are part of
                 max_position_embeddings, so the longest input is that number less 2.
    types        There is only one token type.
    head         Its activation is gelu, whatever the config says.

The layer is BART's encoder layer otherwise: post-norm, scaled attention, biases everywhere, exact gelu. Layerdrop,
`scale_embedding` and label smoothing are not here. Of the heads of other tasks only BERT's next-sentence layer is
converted; no function here computes with it.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", https://arxiv.org/abs/1810.04805; Liu et al.,
"RoBERTa: A Robustly Optimized BERT Pretraining Approach", https://arxiv.org/abs/1907.11692. `pytest tests/relatives`
compares every number with `transformers` BertForMaskedLM and RobertaForMaskedLM in PyTorch.

The dimension key is BART's: B batch, S source length, V vocabulary, D width, H heads, K = D/H, F feed-forward width,
L layers, P rows of the position table (all of them, so P = max_position_embeddings); and N token types. What BART has
too has BART's name in the parameter tree.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bart_oneliner import (
    ACTIVATIONS,
    Array,
    Params,
    State,
    attend,
    dropout,
    einsum,
    give,
    leaf_name,
    linear,
    merge_heads,
    split,
    split_heads,
    take_leaf,
)

# ── Config ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Config:
    """The fields of config.json that define a model, with their names and transformers' defaults (bert-base)."""

    model_type: str = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        if self.model_type not in ("bert", "roberta"):
            raise ValueError(f"model_type {self.model_type!r} is not supported: 'bert' and 'roberta' are")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {self.hidden_act!r} is not one of {sorted(ACTIVATIONS)}")
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}"
            )
        for name in ("vocab_size", "max_position_embeddings", "num_hidden_layers", "type_vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Config:
        """From the contents of a Hugging Face config.json; ValueError for any architecture but these two."""
        if (kind := fields.get("position_embedding_type", "absolute")) != "absolute":
            raise ValueError(f"position_embedding_type {kind!r} is not supported: only 'absolute' is")
        for name in ("is_decoder", "add_cross_attention"):
            if fields.get(name):
                raise ValueError(f"{name}=true is not BERT's architecture and is not supported")
        values: dict[str, Any] = {"model_type": None, "pad_token_id": 1 if fields.get("model_type") == "roberta" else 0}
        for field in dataclasses.fields(cls):
            if fields.get(field.name) is not None:
                values[field.name] = fields[field.name]
        return cls(**values)


# ── Parameter format ──────────────────────────────────────────────────────────────────────────────────────────────────


def param_shapes(config: Config, parts: tuple[str, ...] = ("lm_head",), dtype: Any = jnp.float32) -> Params:
    """The parameter tree, with a jax.ShapeDtypeStruct for each array: the encoder, and the optional `parts`.

    "lm_head" is for the loss and "pooler" for tasks about the whole text. "next_sentence" is the layer of BERT's second
    objective; it is only converted, so that checkpoints keep it. A checkpoint may have any of the three.
    """
    D, V, P, N = config.hidden_size, config.vocab_size, config.max_position_embeddings, config.type_vocab_size
    L, H, F = config.num_hidden_layers, config.num_attention_heads, config.intermediate_size

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    norm = {"weight": array(L, D), "bias": array(L, D)}
    project = {"weight": array(L, H, D, D // H), "bias": array(L, H, D // H)}
    dense, single_norm = {"weight": array(D, D), "bias": array(D)}, {"weight": array(D), "bias": array(D)}
    heads: Params = {
        "lm_head": {"dense": dense, "layer_norm": single_norm, "bias": array(V)},
        "pooler": dense,
        "next_sentence": {"weight": array(D, 2), "bias": array(2)},
    }
    return {
        "shared": array(V, D),  # the input and the output embedding are one matrix
        "embed_positions": array(P, D),
        "embed_types": array(N, D),
        "layernorm_embedding": single_norm,
        "layers": {
            "self_attn": {
                "q_proj": project,
                "k_proj": project,
                "v_proj": project,
                "out_proj": {"weight": array(L, H, D // H, D), "bias": array(L, D)},
            },
            "self_attn_layer_norm": norm,
            "fc1": {"weight": array(L, D, F), "bias": array(L, F)},
            "fc2": {"weight": array(L, F, D), "bias": array(L, D)},
            "final_layer_norm": norm,
        },
        **{part: heads[part] for part in parts},
    }


# ── Conversion: as BART's, with other names ───────────────────────────────────────────────────────────────────────────

RENAMED = {  # ours -> Hugging Face's
    "shared": "embeddings.word_embeddings",
    "embed_positions": "embeddings.position_embeddings",
    "embed_types": "embeddings.token_type_embeddings",
    "layernorm_embedding": "embeddings.LayerNorm",
    "layers.self_attn.q_proj": "encoder.layer.{}.attention.self.query",
    "layers.self_attn.k_proj": "encoder.layer.{}.attention.self.key",
    "layers.self_attn.v_proj": "encoder.layer.{}.attention.self.value",
    "layers.self_attn.out_proj": "encoder.layer.{}.attention.output.dense",
    "layers.self_attn_layer_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "layers.fc1": "encoder.layer.{}.intermediate.dense",
    "layers.fc2": "encoder.layer.{}.output.dense",
    "layers.final_layer_norm": "encoder.layer.{}.output.LayerNorm",
    "pooler": "pooler.dense",
    "next_sentence": "cls.seq_relationship",
}
HEAD = {  # the same for the masked-language-model head, whose names differ between BERT and RoBERTa
    "bert": {
        "lm_head.dense": "cls.predictions.transform.dense",
        "lm_head.layer_norm": "cls.predictions.transform.LayerNorm",
        "lm_head": "cls.predictions",
    },
    "roberta": {"lm_head.dense": "lm_head.dense", "lm_head.layer_norm": "lm_head.layer_norm", "lm_head": "lm_head"},
}
ENCODER = ("embeddings.", "encoder.", "pooler.")  # names that get the prefix `bert.` or `roberta.` if there is a head
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")  # constants, stored by older transformers


def pytorch_name(config: Config, leaf: str, layer: int = 0) -> str:
    """The name of a leaf, or of one layer of it, in Hugging Face's state dict, without `bert.` or `roberta.`."""
    if "." in leaf:
        module, _, kind = leaf.rpartition(".")
    else:
        module, kind = leaf, "weight"  # a leaf without a dot is an embedding
    renamed = RENAMED | HEAD[config.model_type]
    return f"{renamed[module]}.{kind}".format(layer)


def naming(config: Config) -> Callable[..., str]:
    """A function that gives pytorch_name for a path of the tree; take_leaf and give call it for every leaf."""

    def name(path: jax.tree_util.KeyPath, layer: int = 0) -> str:
        return pytorch_name(config, leaf_name(path), layer)

    return name


def open_state(state_dict: Mapping[str, Any], config: Config) -> State:
    """The State, without prefixes, buffers and equal copies; TensorFlow's gamma and beta become weight and bias."""
    state: State = {}
    for key in state_dict:
        name = key.removeprefix(f"{config.model_type}.")
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name not in BUFFERS:
            state[name] = functools.partial(state_dict.__getitem__, key)
    head = HEAD[config.model_type]["lm_head"]
    for kind, original in (("weight", pytorch_name(config, "shared")), ("bias", f"{head}.bias")):
        copy = state.pop(f"{head}.decoder.{kind}", None)
        if copy and not np.array_equal(copy(), state.setdefault(original, copy)()):
            raise ValueError(f"{head}.decoder.{kind} differs from {original}: untied heads are not supported")
    return state


def convert(state_dict: Mapping[str, Any], config: Config) -> Params:
    """PyTorch's tensors to our tree, with those parts that are present; ValueError names a key that does not fit."""
    state = open_state(state_dict, config)
    parts = ("lm_head", "pooler", "next_sentence")
    present = tuple(part for part in parts if pytorch_name(config, f"{part}.bias") in state)
    shapes = param_shapes(config, present)
    params = jax.tree_util.tree_map_with_path(functools.partial(take_leaf, state, naming(config)), shapes)
    if state:
        raise ValueError(f"the checkpoint has tensors that {config.model_type} does not: {sorted(state)[:5]}")
    return params


def revert(params: Params, config: Config) -> dict[str, np.ndarray]:
    """Our tree as a state dict with PyTorch's names and shapes; the inverse of convert.

    If the tree has lm_head or next_sentence, the names in ENCODER get the prefix `bert.` or `roberta.`.
    """
    prefix = f"{config.model_type}." if params.keys() & {"lm_head", "next_sentence"} else ""
    state_dict = {}
    for name, tensor in give(params, naming(config)):
        state_dict[prefix + name if name.startswith(ENCODER) else name] = tensor
    return state_dict


# ── Initialization ────────────────────────────────────────────────────────────────────────────────────────────────────


def init(config: Config, key: Array, parts: tuple[str, ...] = ("lm_head",)) -> Params:
    """Fresh float32 params from PyTorch's distribution (PreTrainedModel._init_weights), as in BART.

    Matrices and embeddings are N(0, initializer_range). Biases and the padding token's row are zero; in RoBERTa also
    the padding's row of the position table. Layer norms start as the identity.
    """

    def fresh(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct, key: Array) -> Array:
        name = leaf_name(path)
        if name.endswith("bias"):
            return jnp.zeros_like(leaf)
        if "norm" in name:
            return jnp.ones_like(leaf)
        return config.initializer_range * jax.random.normal(key, leaf.shape, leaf.dtype)

    shapes = param_shapes(config, parts)
    keys = list(jax.random.split(key, len(jax.tree.leaves(shapes))))
    keys = jax.tree.unflatten(jax.tree.structure(shapes), keys)
    params = jax.tree_util.tree_map_with_path(fresh, shapes, keys)
    padded = ("shared", "embed_positions") if config.model_type == "roberta" else ("shared",)
    return params | {name: params[name].at[config.pad_token_id].set(0.0) for name in padded}


# ── Embeddings and layer ──────────────────────────────────────────────────────────────────────────────────────────────


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """BART's layer norm with another eps. BERT's, 1e-12, changes no float32 variance above 3.1e-5 (2^-15)."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centered = wide - wide.mean(-1, keepdims=True)
    normed = centered / jnp.sqrt(jnp.square(centered).mean(-1, keepdims=True) + eps)
    return (normed * weight + bias).astype(x.dtype)


def positions(config: Config, input_ids: Array) -> Array:
    """Each token's row of the position table, (1,S) or (B,S).

    BERT counts all tokens, from row 0 on. RoBERTa counts the tokens that are not padding, from row pad_token_id + 1 on,
    and padding has the row pad_token_id, so padding on the left changes nothing. BART counts all tokens from row 2 on.
    """
    if config.model_type == "bert":
        return jnp.arange(input_ids.shape[1])[None]
    real = (input_ids != config.pad_token_id).astype(jnp.int32)
    return jnp.cumsum(real, axis=1) * real + config.pad_token_id


def embed(params: Params, config: Config, input_ids: Array, token_type_ids: Array, key: Array | None = None) -> Array:
    """Token plus type plus position embeddings, then a norm: ids and types (B,S) -> (B,S,D).

    A lookup of the padding token sends no gradient back; in RoBERTa neither does one of the padding's position (torch's
    padding_idx).
    """

    def look_up(table: Array, rows: Array, padded: bool) -> Array:
        x = table[rows]
        if not padded:
            return x
        return jnp.where((rows == config.pad_token_id)[..., None], jax.lax.stop_gradient(x), x)

    tokens = look_up(params["shared"], input_ids, padded=True)
    types = look_up(params["embed_types"], token_type_ids, padded=False)
    rows = positions(config, input_ids)
    position = look_up(params["embed_positions"], rows, padded=config.model_type == "roberta")
    x = layer_norm(tokens + types + position, **params["layernorm_embedding"], eps=config.layer_norm_eps)
    return dropout(x, config.hidden_dropout_prob, key)


def layer(x: Array, mask: Array, config: Config, key: Array | None, **p: Params) -> Array:
    """BART's encoder layer, post-norm, x = norm(x + dropout(f(x))), but without dropout after the activation."""
    keys = iter(split(key, 3))

    def residual(x: Array, y: Array, norm: str) -> Array:
        return layer_norm(x + dropout(y, config.hidden_dropout_prob, next(keys)), **p[norm], eps=config.layer_norm_eps)

    w = p["self_attn"]
    q, k, v = split_heads(x, **w["q_proj"]), split_heads(x, **w["k_proj"]), split_heads(x, **w["v_proj"])
    attended = attend(q, k, v, mask, config.attention_probs_dropout_prob, next(keys))
    x = residual(x, merge_heads(attended, **w["out_proj"]), "self_attn_layer_norm")
    hidden = ACTIVATIONS[config.hidden_act](linear(x, **p["fc1"]))
    return residual(x, linear(hidden, **p["fc2"]), "final_layer_norm")


# ── Encoder, heads, loss ──────────────────────────────────────────────────────────────────────────────────────────────


def encode(
    params: Params, config: Config, input_ids: Array, attention_mask: Array, token_type_ids: Array | None = None,
    key: Array | None = None,
) -> Array:  # fmt: skip
    """BertModel: input_ids, attention_mask, token_type_ids (B,S) -> the last hidden states (B,S,D).

    Without token_type_ids all tokens are of type 0, the first text. A key switches dropout on.
    """
    embed_key, layers_key = split(key, 2)
    types = jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids
    x = embed(params, config, input_ids, types, embed_key)
    mask = attention_mask.astype(bool)[:, None, None, :]

    def body(x: Array, layer_and_key: tuple[Params, Array | None]) -> tuple[Array, None]:
        weights, key = layer_and_key
        return layer(x, mask, config, key, **weights), None

    keys = None if key is None else split(layers_key, config.num_hidden_layers)
    return jax.lax.scan(body, x, (params["layers"], keys))[0]


def pool(params: Params, hidden: Array) -> Array:
    """The pooler: hidden states (B,S,D) -> one vector for each text (B,D), from its first token."""
    return jnp.tanh(linear(hidden[:, :1], **params["pooler"]))[:, 0]


def lm_head(params: Params, config: Config, hidden: Array) -> Array:
    """(B,S,D) -> logits (B,S,V), at least float32: a linear layer, activation, norm, then the embedding and a bias."""
    p = params["lm_head"]
    activation = config.hidden_act if config.model_type == "bert" else "gelu"  # in RoBERTa it is always gelu
    x = ACTIVATIONS[activation](linear(hidden, **p["dense"]))
    x = layer_norm(x, **p["layer_norm"], eps=config.layer_norm_eps)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return einsum("btd,vd->btv", x, params["shared"], preferred_element_type=dtype) + p["bias"]


@functools.partial(jax.jit, static_argnames="config")
def forward(
    params: Params, config: Config, input_ids: Array, attention_mask: Array, token_type_ids: Array | None = None,
    dropout_key: Array | None = None,
) -> Array:  # fmt: skip
    """BertForMaskedLM, RobertaForMaskedLM: ids, mask and types (B,S) -> logits (B,S,V), at least float32."""
    return lm_head(params, config, encode(params, config, input_ids, attention_mask, token_type_ids, dropout_key))


@functools.partial(jax.jit, static_argnames="config")
def loss(
    params: Params, config: Config, input_ids: Array, attention_mask: Array, labels: Array,
    token_type_ids: Array | None = None, dropout_key: Array | None = None,
) -> Array:  # fmt: skip
    """Masked language modeling: mean cross entropy in nats over the labels (B,S) that are not -100.

    A label is predicted at its own position, where the input has the mask token (in a tenth of the cases a random
    token, in another tenth the token itself). At all other positions the label is -100.
    """
    log_probs = jax.nn.log_softmax(forward(params, config, input_ids, attention_mask, token_type_ids, dropout_key))
    nll = -jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    counted = labels != -100
    return jnp.where(counted, nll, 0.0).sum() / counted.sum()


# ── The one line ──────────────────────────────────────────────────────────────────────────────────────────────────────
# BertForMaskedLM's logits, written by the four rules that bart_oneliner.py gives for its one line.
bert = lambda params, input_ids, attention_mask, token_type_ids: (lambda linear, norm, attend: (lambda x: jnp.einsum("btd,vd->btv", norm(jax.nn.gelu(linear(x, **params["lm_head"]["dense"]), approximate=False), **params["lm_head"]["layer_norm"]), params["shared"]) + params["lm_head"]["bias"])(jax.lax.scan(lambda x, layer: ((lambda x: norm(x + linear(jax.nn.gelu(linear(x, **layer["fc1"]), approximate=False), **layer["fc2"]), **layer["final_layer_norm"]))(norm(x + attend(x, **layer["self_attn"]), **layer["self_attn_layer_norm"])), None), norm(params["shared"][input_ids] + params["embed_types"][token_type_ids] + params["embed_positions"][:input_ids.shape[1]], **params["layernorm_embedding"]), params["layers"])[0]))(lambda x, weight, bias: x @ weight + bias, lambda x, weight, bias: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-12) * weight + bias, lambda x, q_proj, k_proj, v_proj, out_proj: jnp.einsum("bhtk,hkd->btd", (lambda q, k, v: jax.nn.softmax(jnp.where(attention_mask[:, None, None], q @ k.mT * k.shape[-1] ** -0.5, -1e30)) @ v)(*(x[:, None] @ p["weight"] + p["bias"][:, None] for p in (q_proj, k_proj, v_proj))), out_proj["weight"]) + out_proj["bias"])  # type: ignore  # noqa: E501  # fmt: skip
