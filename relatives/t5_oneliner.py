"""T5 in one file, for readers of `bart_oneliner.py`. Functions that are equal are imported from there.

T5 is an encoder and a decoder with cross-attention, like BART. Version 1.1 is a later T5, and FLAN-T5 is version 1.1
trained further. This differs from BART, in the order of this file:

    start        The decoder starts with the padding token, BART's with </s>.
    biases       No projection and no norm has a bias, and there is no final_logits_bias.
    heads        The head width K is in the config; H·K need not be D.
    init         Each projection is drawn with a standard deviation that depends on its input width, that of the queries
                 on the head width too; embeddings have deviation 1. BART draws all with 0.02.
    norm         RMS norm: no mean is subtracted; eps is 1e-6. It comes before self-attention, cross-attention and the
                 feed-forward part (pre-norm) and after the last layer. There is none after the embedding.
    scale        Scores are not divided by √K.
    positions    No position embedding is added to the tokens. Instead self-attention adds a number to each score,
                 which each head learns for ranges of the distance between query and key (`buckets`). The encoder has
                 one table of these numbers for all its layers and the decoder another. Cross-attention has none.
    activation   relu; in version 1.1 the product gelu(fc1 x) · (gate x), with gelu's tanh form.
    dropout      The same rate everywhere, attention included; there is also dropout after the last norm.
    padding      Its embedding is trained like any other.
    head         Hidden states are multiplied by D^-1/2 before the product with the embedding. Version 1.1 has a
                 separate matrix instead of the embedding, and no such factor.

Layerdrop, `scale_embedding`, label smoothing, forced tokens in `greedy`, the heads of other tasks and a one-line form
are not here.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
https://arxiv.org/abs/1910.10683. The reference for every number is `transformers` T5ForConditionalGeneration in
PyTorch, with which `pytest tests/relatives` compares.

The dimension key is BART's: B batch, S source length, T target length, V vocabulary, D width, H heads, K head width,
F feed-forward width, L layers. What BART has too has BART's name in the parameter tree.
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
    """The fields of config.json that define a model, with their names and transformers' defaults (t5-small).

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
                f"feed_forward_proj {self.feed_forward_proj!r} is not one of {sorted(ACTIVATIONS)}, with or without "
                "'gated-' before it"
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
        """A key of ACTIVATIONS. "gated-gelu" means gelu's tanh form, as in transformers' T5Config."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.gated and name == "gelu" else name

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Config:
        """From the contents of a Hugging Face config.json; ValueError for any architecture but T5's.

        Published files have only tie_word_embeddings, false for version 1.1, from which transformers infers
        scale_decoder_outputs. transformers 5 writes scale_decoder_outputs, and writes tie_word_embeddings=true for
        every model; correct such a config of version 1.1 with dataclasses.replace(config, tie_word_embeddings=False).
        """
        if (kind := fields.get("model_type")) != "t5":
            raise ValueError(f"model_type {kind!r} is not supported: only 't5' is")
        fields = {"scale_decoder_outputs": fields.get("tie_word_embeddings", True)} | dict(fields)
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: fields[name] for name in names if fields.get(name) is not None})


# ── Parameter format ──────────────────────────────────────────────────────────────────────────────────────────────────


def param_shapes(config: Config, dtype: Any = jnp.float32) -> Params:
    """The parameter tree, with a jax.ShapeDtypeStruct for each array. init and convert replace each by its array."""
    D, V, H, K, F = config.d_model, config.vocab_size, config.num_heads, config.d_kv, config.d_ff

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    def stack(L: int, attentions: tuple[str, ...]) -> Params:
        norm, project = {"weight": array(L, D)}, {"weight": array(L, H, D, K)}
        layers: Params = {
            "fc1": {"weight": array(L, D, F)},
            "fc2": {"weight": array(L, F, D)},
            "final_layer_norm": norm,
        }
        if config.gated:
            layers["gate"] = {"weight": array(L, D, F)}
        for name in attentions:
            out_proj = {"weight": array(L, H, K, D)}
            layers[name] = {"q_proj": project, "k_proj": project, "v_proj": project, "out_proj": out_proj}
            layers[f"{name}_layer_norm"] = norm
        bias = array(config.relative_attention_num_buckets, H)
        return {"relative_attention_bias": bias, "layers": layers, "layer_norm": {"weight": array(D)}}

    shapes = {
        "shared": array(V, D),  # source and target embeddings are one matrix, and the output embedding if it is tied
        "encoder": stack(config.num_layers, ("self_attn",)),
        "decoder": stack(config.num_decoder_layers or config.num_layers, ("self_attn", "encoder_attn")),
    }
    if not config.tie_word_embeddings:
        shapes["lm_head"] = array(V, D)
    return shapes


# ── Conversion: as BART's, with other names ───────────────────────────────────────────────────────────────────────────

# Names inside a layer: ours -> Hugging Face's, which number a layer's parts; {last} is the feed-forward part's number.
RENAMED = {
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
OBSOLETE = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"}  # in old files, but never used


def naming(config: Config) -> Callable[..., str]:
    """A function that gives the name in Hugging Face's state dict of a leaf, or of one layer of it."""
    first = {"fc1": "wi_0", "gate": "wi_1"} if config.gated else {"fc1": "wi"}  # the activation follows wi_0
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
    """The State, without obsolete names and equal copies of the embedding, of which a tied head is one."""
    names = [name for name in state_dict if name not in OBSOLETE]
    state: State = {name: functools.partial(state_dict.__getitem__, name) for name in names}
    for name in (*TIED, "lm_head.weight") if config.tie_word_embeddings else TIED:
        copy = state.pop(name, None)
        if copy and not np.array_equal(copy(), state.setdefault("shared.weight", copy)()):
            raise ValueError(
                f"{name} differs from shared.weight or a copy of it; only a head may, with tie_word_embeddings=False"
            )
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
    """Our tree as a state dict with PyTorch's names and shapes; the inverse of convert."""
    return dict(give(params, naming(config)))


# ── Initialization ────────────────────────────────────────────────────────────────────────────────────────────────────


def init(config: Config, key: Array) -> Params:
    """Fresh float32 params from PyTorch's distribution (T5PreTrainedModel._init_weights).

    A matrix is drawn from a normal distribution with variance 1 / (its input width), so that its output has the
    variance of its input. The queries' matrix has variance 1 / (D·K), where K is the head width, so that scores have
    variance 1 without a scale in attention. Embeddings and a separate head are N(0, 1). (transformers 5 ties the head
    of every fresh model.) Norms start at `initializer_factor`, which is 1 in all published models.
    """
    D, K, H, F = config.d_model, config.d_kv, config.num_heads, config.d_ff
    # 1 / variance of each matrix
    inputs = {"shared": 1, "lm_head": 1, "q_proj": D * K, "out_proj": H * K, "fc2": F}  # D for all other matrices

    def fresh(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct, key: Array) -> Array:
        name = leaf_name(path)
        if "norm" in name:
            return jnp.full_like(leaf, config.initializer_factor)
        module = name.removesuffix(".weight").rpartition(".")[2]
        deviation = config.initializer_factor * inputs.get(module, D) ** -0.5
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
    """BART's attend, but with a bias (1,H,T,S) added to the scores and no scale; q (B,H,T,K), k and v (B,H,S,K)."""
    scores = einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=jnp.promote_types(q.dtype, jnp.float32))
    scores = jnp.where(mask, scores + bias, jnp.finfo(scores.dtype).min)
    weights = dropout(jax.nn.softmax(scores), rate, key).astype(v.dtype)
    return einsum("bhts,bhsk->bhtk", weights, v)


def buckets(config: Config, length: int, bidirectional: bool) -> Array:
    """(T,T): the bucket of each key's distance from each query (T5Attention._relative_position_bucket).

    Half of the buckets hold one distance each. The others hold ranges that grow with the logarithm of the distance up
    to max_distance, and the last one also all larger distances. In the encoder (bidirectional), one half of all buckets
    is for earlier keys and one for later keys; the decoder sees no later keys.
    """
    position = jnp.arange(length)
    distance = position[None, :] - position[:, None]  # of the key from the query: negative if the key is earlier
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
    """(1,H,T,T): what each head adds to its scores, by the distance of query and key, in all layers of `side`."""
    return side["relative_attention_bias"][buckets(config, length, bidirectional)].transpose(2, 0, 1)[None]


# ── Layer, encoder, decoder ───────────────────────────────────────────────────────────────────────────────────────────


def layer(
    x: Array, bias: Array, mask: Array, memory: Array | None, memory_mask: Array | None, config: Config,
    key: Array | None, **p: Params,
) -> Array:  # fmt: skip
    """One encoder layer, or decoder layer if it has an `encoder_attn`: pre-norm, x = x + dropout(f(norm(x)))."""
    keys = iter(split(key, 6))

    def drop(y: Array) -> Array:
        return dropout(y, config.dropout_rate, next(keys))

    def norm(x: Array, name: str) -> Array:
        return rms_norm(x, **p[name], eps=config.layer_norm_epsilon)

    def attention(x: Array, memory: Array, bias: Array | float, mask: Array, w: Params) -> Array:
        q = einsum("btd,hdk->bhtk", x, w["q_proj"]["weight"])
        k = einsum("btd,hdk->bhtk", memory, w["k_proj"]["weight"])
        v = einsum("btd,hdk->bhtk", memory, w["v_proj"]["weight"])
        attended = attend(q, k, v, bias, mask, config.dropout_rate, next(keys))
        return einsum("bhtk,hkd->btd", attended, w["out_proj"]["weight"])

    y = norm(x, "self_attn_layer_norm")
    x = x + drop(attention(y, y, bias, mask, p["self_attn"]))
    if "encoder_attn" in p:
        assert memory is not None and memory_mask is not None
        y = norm(x, "encoder_attn_layer_norm")
        x = x + drop(attention(y, memory, 0.0, memory_mask, p["encoder_attn"]))  # no position bias
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

    Lookups of the padding token send gradients back, because T5's embedding has no padding_idx.
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

    Embeddings start as N(0, 1), so hidden states are scaled down where the embedding is the head.
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
    """Mean cross entropy in nats over the labels (B,T) that are not -100, without BART's label smoothing.

    In pre-training, spans of the source are replaced by sentinel tokens, and the labels are the sentinels, each
    followed by the text that it replaced.
    """
    shifted = shift_right(labels, config)  # type: ignore[arg-type]  # it reads two token ids, which this Config has too
    logits = forward(params, config, input_ids, attention_mask, shifted, dropout_key=dropout_key)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    counted = labels != -100
    return jnp.where(counted, nll, 0.0).sum() / counted.sum()


@functools.partial(jax.jit, static_argnames=("config", "max_length"))
def greedy(params: Params, config: Config, input_ids: Array, attention_mask: Array, max_length: int = 20) -> Array:
    """Greedy search with a whole forward for each token, as in BART.

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
