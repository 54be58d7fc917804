"""T5 on one page, told by what differs from BART (`bart_oneliner.py`, which should be read first).

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
https://arxiv.org/abs/1910.10683. Version 1.1, on which FLAN-T5 is trained, has a gated feed-forward part and a head of
its own. The reference for every number is `transformers` T5ForConditionalGeneration in PyTorch; `pytest
tests/relatives` compares with it.

T5 is an encoder and a decoder with cross-attention, as BART is. What differs, in the order of this page:

    biases       none, in no projection and no norm
    heads        their width K is free: H·K need not be D
    initializing each matrix by its width, which takes the place of attention's scale
    norm         RMS norm: no mean is subtracted; before each part, not after it, and once at each side's end
    positions    no table: a learned bias on attention's scores for each distance, in buckets, the same in all layers
    scale        attention's scores are not divided by the root of K
    activation   relu, or in version 1.1 gelu times a second linear map: "gated"
    dropout      one rate in every place; also after the last norm
    head         the embedding with its input times D^-1/2; in version 1.1 a matrix of its own and no such factor
    start        the decoder starts with the padding token

The dimension key is BART's: B batch, S source length, T target length, V vocabulary, D width, H heads, K head width,
F feed-forward width, L layers. Names in the tree are BART's as well.
"""

from __future__ import annotations

import dataclasses
import functools
import math
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
    dropout,
    einsum,
    give,
    leaf_name,
    shift_right,
    split,
    take_leaf,
)

# ── Config ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Config:
    """What config.json says about a checkpoint, under its names and with transformers' defaults (t5-small).

    num_decoder_layers None means as many as num_layers. scale_decoder_outputs and tie_word_embeddings are both true in
    T5 and both false in version 1.1.
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool = True
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS or self.feed_forward_proj.removeprefix("gated-").count("-"):
            raise ValueError(
                f"feed_forward_proj {self.feed_forward_proj!r} is not one of {sorted(ACTIVATIONS)}, after gated- or not"
            )
        for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_decoder_layers is not None and self.num_decoder_layers < 1:
            raise ValueError(f"num_decoder_layers must be at least 1, got {self.num_decoder_layers}")
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or distance <= buckets // 2:
            raise ValueError(
                f"relative_attention_num_buckets {buckets} must be at least 4, and relative_attention_max_distance "
                f"{distance} above half of it"
            )

    @property
    def gated(self) -> bool:
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> str:
        """Of ACTIVATIONS. What the file calls gelu in a gated part is its tanh form (T5Config says so too)."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.gated and name == "gelu" else name

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Config:
        """From the contents of a Hugging Face config.json; ValueError for any architecture but T5's.

        Files say only tie_word_embeddings, false for version 1.1, from which transformers concludes that nothing is
        scaled either. Since version 5 it writes scale_decoder_outputs, and true for tie_word_embeddings in any case:
        such a file of an untied checkpoint is corrected with dataclasses.replace(config, tie_word_embeddings=False).
        """
        if (kind := fields.get("model_type")) != "t5":
            raise ValueError(f"model_type {kind!r} is not supported: only 't5' is")
        fields = {"scale_decoder_outputs": fields.get("tie_word_embeddings", True)} | dict(fields)
        return cls(**{f.name: fields[f.name] for f in dataclasses.fields(cls) if fields.get(f.name) is not None})


# ── Parameter format ──────────────────────────────────────────────────────────────────────────────────────────────────


def param_shapes(config: Config, dtype: Any = jnp.float32) -> Params:
    """The parameter tree with a jax.ShapeDtypeStruct at each leaf. It drives init and conversion alike."""
    D, V, H, K, F = config.d_model, config.vocab_size, config.num_heads, config.d_kv, config.d_ff

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    def stack(L: int, attentions: tuple[str, ...]) -> Params:
        norm, project = {"weight": array(L, D)}, {"weight": array(L, H, D, K)}
        layers: Params = {"fc1": {"weight": array(L, D, F)}, "fc2": {"weight": array(L, F, D)}}
        layers |= {"gate": {"weight": array(L, D, F)}} if config.gated else {}
        layers |= {"final_layer_norm": norm}
        for name in attentions:
            out_proj = {"weight": array(L, H, K, D)}
            layers[name] = {"q_proj": project, "k_proj": project, "v_proj": project, "out_proj": out_proj}
            layers[f"{name}_layer_norm"] = norm
        bias = array(config.relative_attention_num_buckets, H)
        return {"relative_attention_bias": bias, "layers": layers, "layer_norm": {"weight": array(D)}}

    return {
        "shared": array(V, D),  # source and target embeddings are one matrix, and the output's too if it is tied
        "encoder": stack(config.num_layers, ("self_attn",)),
        "decoder": stack(config.num_decoder_layers or config.num_layers, ("self_attn", "encoder_attn")),
        **({} if config.tie_word_embeddings else {"lm_head": array(V, D)}),
    }


# ── Conversion: BART's walk with other names ──────────────────────────────────────────────────────────────────────────

RENAMED = {  # in a layer: ours -> Hugging Face's, which counts a layer's parts; the feed-forward part is the last
    "self_attn": "0.SelfAttention",
    "self_attn_layer_norm": "0.layer_norm",
    "encoder_attn": "1.EncDecAttention",
    "encoder_attn_layer_norm": "1.layer_norm",
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "out_proj": "o",
    "fc2": "{last}.DenseReluDense.wo",
    "final_layer_norm": "{last}.layer_norm",
}
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # copies of "shared.weight"
OBSOLETE = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"}  # cross-attention has none


def naming(config: Config) -> Callable[..., str]:
    """pytorch_name of such a config: where Hugging Face's state dict keeps a leaf (a layer of it)."""
    first = {"fc1": "wi_0", "gate": "wi_1"} if config.gated else {"fc1": "wi"}  # the activation is on wi_0
    renamed = RENAMED | {ours: "{last}.DenseReluDense." + theirs for ours, theirs in first.items()}

    def pytorch_name(path: jax.tree_util.KeyPath, layer: int = 0) -> str:
        side, *parts = leaf_name(path).split(".")
        if parts == ["relative_attention_bias"]:
            return f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        if parts == ["layer_norm", "weight"]:
            return f"{side}.final_layer_norm.weight"
        if not parts:
            return f"{side}.weight"
        name = ".".join(renamed.get(part, part) for part in parts[1:]).format(last=1 if side == "encoder" else 2)
        return f"{side}.block.{layer}.layer.{name}"

    return pytorch_name


def open_state(state_dict: Mapping[str, Any], config: Config) -> State:
    """What each name reads, with one embedding for up to three equal copies, four if the head is tied."""
    state: State = {
        name: functools.partial(state_dict.__getitem__, name) for name in state_dict if name not in OBSOLETE
    }
    for name in (*TIED, *(("lm_head.weight",) if config.tie_word_embeddings else ())):
        copy = state.pop(name, None)
        if copy and not np.array_equal(copy(), state.setdefault("shared.weight", copy)()):
            raise ValueError(f"{name} differs from shared.weight or a copy; a head may, with tie_word_embeddings=False")
    return state


def convert(state_dict: Mapping[str, Any], config: Config) -> Params:
    """PyTorch's tensors to our tree, in numpy and the dtype they come in; ValueError names a key that does not fit."""
    state = open_state(state_dict, config)
    take = functools.partial(take_leaf, state, naming(config))
    params = jax.tree_util.tree_map_with_path(take, param_shapes(config))
    if state:
        raise ValueError(f"the checkpoint has tensors that T5 does not: {sorted(state)[:5]}")
    return params


def revert(params: Params, config: Config) -> dict[str, np.ndarray]:
    """Our tree to PyTorch's names and shapes."""
    return dict(give(params, naming(config)))


# ── Initialization ────────────────────────────────────────────────────────────────────────────────────────────────────


def init(config: Config, key: Array) -> Params:
    """Fresh float32 params from PyTorch's distribution (T5PreTrainedModel._init_weights).

    All are normal, with the deviation that keeps the variance of what is multiplied; only the queries' is smaller by
    the root of K, which keeps the scores' variance at 1 without a scale in attention. Embeddings are N(0, 1), and so is
    a head of its own (transformers 5 ties every fresh model's instead). Norms start as the identity.
    """
    D, K, H, F = config.d_model, config.d_kv, config.num_heads, config.d_ff
    inputs = {"shared": 1, "lm_head": 1, "q_proj": D * K, "out_proj": H * K, "fc2": F}  # the others have D

    def fresh(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct, key: Array) -> Array:
        name = leaf_name(path)
        if "norm" in name:
            return jnp.full_like(leaf, config.initializer_factor)
        deviation = config.initializer_factor * inputs.get(name.removesuffix(".weight").split(".")[-1], D) ** -0.5
        return deviation * jax.random.normal(key, leaf.shape, leaf.dtype)

    shapes = param_shapes(config)
    keys = list(jax.random.split(key, len(jax.tree.leaves(shapes))))
    keys = jax.tree.unflatten(jax.tree.structure(shapes), keys)
    return jax.tree_util.tree_map_with_path(fresh, shapes, keys)


# ── Primitives ────────────────────────────────────────────────────────────────────────────────────────────────────────


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """x over its root mean square, along the last axis: BART's layer norm without mean and without bias."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide / jnp.sqrt(jnp.square(wide).mean(-1, keepdims=True) + eps) * weight).astype(x.dtype)


def linear(x: Array, weight: Array) -> Array:
    return einsum("btd,df->btf", x, weight)


def attend(q: Array, k: Array, v: Array, bias: Array | float, mask: Array, rate: float, key: Array | None) -> Array:
    """BART's attend with a bias (1,H,T,S) added to the scores instead of a scale; q (B,H,T,K), k and v (B,H,S,K)."""
    scores = einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=jnp.promote_types(q.dtype, jnp.float32))
    scores = jnp.where(mask, scores + bias, jnp.finfo(scores.dtype).min)
    weights = dropout(jax.nn.softmax(scores), rate, key).astype(v.dtype)
    return einsum("bhts,bhsk->bhtk", weights, v)


def buckets(config: Config, length: int, bidirectional: bool) -> Array:
    """(T,T): the bucket of each key's distance from each query (T5Attention._relative_position_bucket).

    Half of the buckets are for one distance each, the others grow with the logarithm up to max_distance, and the last
    holds all that is farther. In the encoder later keys have one half of all buckets and earlier ones the other; the
    decoder sees no later keys.
    """
    place = jnp.arange(length)
    distance = place[None, :] - place[:, None]  # of the key from the query: negative if the key is earlier
    count, first = config.relative_attention_num_buckets, jnp.zeros_like(distance)
    if bidirectional:
        count //= 2
        first = jnp.where(distance > 0, count, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = count // 2
    growth = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
    growth = growth / math.log(config.relative_attention_max_distance / exact) * (count - exact)
    far = jnp.minimum(exact + growth.astype(jnp.int32), count - 1)
    return first + jnp.where(distance < exact, distance, far)


def position_bias(side: Params, config: Config, length: int, bidirectional: bool) -> Array:
    """(1,H,T,T): what each head adds to its scores for the distance between query and key, in all layers of a side."""
    return side["relative_attention_bias"][buckets(config, length, bidirectional)].transpose(2, 0, 1)[None]


# ── Layer, encoder, decoder ───────────────────────────────────────────────────────────────────────────────────────────


def layer(
    x: Array, bias: Array, mask: Array, memory: Array | None, memory_mask: Array | None, config: Config,
    key: Array | None, **p: Params,
) -> Array:  # fmt: skip
    """One encoder layer, or decoder layer if it has an `encoder_attn`: pre-norm, x = x + dropout(f(norm(x)))."""
    keys = iter(split(key, 6))
    drop = lambda y: dropout(y, config.dropout_rate, next(keys))
    norm = lambda x, name: rms_norm(x, **p[name], eps=config.layer_norm_epsilon)

    def attention(x: Array, memory: Array, bias: Array | float, mask: Array, w: Params) -> Array:
        pairs = ((x, "q_proj"), (memory, "k_proj"), (memory, "v_proj"))
        q, k, v = (einsum("btd,hdk->bhtk", y, w[name]["weight"]) for y, name in pairs)
        attended = attend(q, k, v, bias, mask, config.dropout_rate, next(keys))
        return einsum("bhtk,hkd->btd", attended, w["out_proj"]["weight"])

    y = norm(x, "self_attn_layer_norm")
    x = x + drop(attention(y, y, bias, mask, p["self_attn"]))
    if "encoder_attn" in p:
        assert memory is not None and memory_mask is not None
        y = norm(x, "encoder_attn_layer_norm")
        x = x + drop(attention(y, memory, 0.0, memory_mask, p["encoder_attn"]))
    y = norm(x, "final_layer_norm")
    hidden = ACTIVATIONS[config.activation](linear(y, **p["fc1"]))
    if "gate" in p:
        hidden = hidden * linear(y, **p["gate"])
    return x + drop(linear(drop(hidden), **p["fc2"]))


def run_side(
    side: Params, shared: Array, ids: Array, mask: Array, memory: Array | None, memory_mask: Array | None,
    config: Config, key: Array | None,
) -> Array:  # fmt: skip
    """Embedding, layers and last norm of the encoder, or of the decoder if there is a `memory`: ids (B,T) -> (B,T,D).

    The padding token's row is like any other here: T5's embedding has no padding_idx.
    """
    embed_key, layers_key, last_key = split(key, 3)
    bias = position_bias(side, config, ids.shape[1], bidirectional=memory is None)
    x = dropout(shared[ids], config.dropout_rate, embed_key)

    def body(x: Array, layer_and_key: tuple[Params, Array | None]) -> tuple[Array, None]:
        weights, key = layer_and_key
        return layer(x, bias, mask, memory, memory_mask, config, key, **weights), None

    depth = side["layers"]["fc1"]["weight"].shape[0]
    x = jax.lax.scan(body, x, (side["layers"], None if key is None else split(layers_key, depth)))[0]
    return dropout(rms_norm(x, **side["layer_norm"], eps=config.layer_norm_epsilon), config.dropout_rate, last_key)


def encode(params: Params, config: Config, input_ids: Array, attention_mask: Array, key: Array | None = None) -> Array:
    """input_ids and attention_mask (B,S) -> the encoder's last hidden states (B,S,D)."""
    mask = attention_mask.astype(bool)[:, None, None, :]
    return run_side(params["encoder"], params["shared"], input_ids, mask, None, None, config, key)


def decode(
    params: Params, config: Config, decoder_input_ids: Array, memory: Array, attention_mask: Array,
    decoder_attention_mask: Array | None = None, key: Array | None = None,
) -> Array:  # fmt: skip
    """decoder_input_ids (B,T) over the encoder's states (B,S,D) -> the decoder's last hidden states (B,T,D)."""
    T = decoder_input_ids.shape[1]
    mask = jnp.tril(jnp.ones((1, 1, T, T), bool))
    if decoder_attention_mask is not None:
        mask &= decoder_attention_mask.astype(bool)[:, None, None, :]
    memory_mask = attention_mask.astype(bool)[:, None, None, :]
    return run_side(params["decoder"], params["shared"], decoder_input_ids, mask, memory, memory_mask, config, key)


def lm_head(params: Params, config: Config, hidden: Array) -> Array:
    """(B,T,D) -> logits (B,T,V), at least float32, without bias.

    The embedding's entries are as large as 1, so with it as head the hidden states are scaled down first.
    """
    dtype = jnp.promote_types(hidden.dtype, jnp.float32)
    if config.scale_decoder_outputs:
        hidden = hidden * config.d_model**-0.5
    return einsum("btd,vd->btv", hidden, params.get("lm_head", params["shared"]), preferred_element_type=dtype)


# ── Forward, loss, greedy ─────────────────────────────────────────────────────────────────────────────────────────────


@functools.partial(jax.jit, static_argnames="config")
def forward(
    params: Params, config: Config, input_ids: Array, attention_mask: Array, decoder_input_ids: Array,
    decoder_attention_mask: Array | None = None, dropout_key: Array | None = None,
) -> Array:  # fmt: skip
    """T5ForConditionalGeneration: ids and masks (B,S), (B,S), (B,T), (B,T) -> logits (B,T,V), at least float32."""
    encoder_key, decoder_key = split(dropout_key, 2)
    memory = encode(params, config, input_ids, attention_mask, encoder_key)
    hidden = decode(params, config, decoder_input_ids, memory, attention_mask, decoder_attention_mask, decoder_key)
    return lm_head(params, config, hidden)


@functools.partial(jax.jit, static_argnames="config")
def loss(
    params: Params, config: Config, input_ids: Array, attention_mask: Array, labels: Array,
    dropout_key: Array | None = None,
) -> Array:  # fmt: skip
    """Mean cross entropy in nats over the labels (B,T) that are not -100; the decoder reads them shifted, as BART's.

    In pre-training the source has lost spans of its text, each with a sentinel token in its place, and the labels are
    the sentinels, each followed by what is missing there.
    """
    shifted = shift_right(labels, config)  # type: ignore[arg-type]  # which reads two special ids of any config
    logits = forward(params, config, input_ids, attention_mask, shifted, dropout_key=dropout_key)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    counted = labels != -100
    return jnp.where(counted, nll, 0.0).sum() / counted.sum()


@functools.partial(jax.jit, static_argnames=("config", "max_length"))
def greedy(params: Params, config: Config, input_ids: Array, attention_mask: Array, max_length: int = 20) -> Array:
    """The most likely token, again and again, with a whole forward for each, as BART's.

    (B,S), (B,S) -> (B,max_length): the start token first, padding after the end-of-sequence token.
    """

    def step(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        ids, done = state
        token = forward(params, config, input_ids, attention_mask, ids)[:, t - 1].argmax(-1).astype(ids.dtype)
        token = jnp.where(done, config.pad_token_id, token)
        return ids.at[:, t].set(token), done | (token == config.eos_token_id)

    B = input_ids.shape[0]
    ids = jnp.full((B, max_length), config.pad_token_id, jnp.int32).at[:, 0].set(config.decoder_start_token_id)
    return jax.lax.fori_loop(1, max_length, step, (ids, jnp.zeros(B, bool)))[0]
