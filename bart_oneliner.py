"""BART on one page: the whole model as pure JAX functions over a plain tree of arrays, and as one line.

Lewis et al., "BART: Denoising Sequence-to-Sequence Pre-training", https://arxiv.org/abs/1910.13461; the reference for
every number is `transformers` BartForConditionalGeneration in PyTorch, which `pytest tests/` compares with.

Dimension key, the same letters in every einsum, shape comment and table:

    B  batch              S  source length       V  vocabulary
    D  model width        T  target length       P  positions, 2 unused ones included (see embed)
    H  heads              K  head width, D/H     F  feed-forward width
    L  layers, a leading axis of every array in "layers": identical layers are stacked and scanned

Read top to bottom. Fast generation (KV cache, beams) is in `bart_inference`, BERT and T5 are in `relatives/`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, Any]  # nested dict of arrays, in the format of param_shapes
Array = jax.Array

# By default TPUs and recent GPUs round float32 before products; HIGHEST keeps all bits. bfloat16 is not affected.
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),  # by erf; the tanh form differs by up to 5e-4
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}

# ── Config ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Config:
    """The fields of config.json that define a model, with their names and transformers' defaults (bart-large)."""

    vocab_size: int = 50265
    d_model: int = 1024
    encoder_layers: int = 12
    decoder_layers: int = 12
    encoder_attention_heads: int = 16
    decoder_attention_heads: int = 16
    encoder_ffn_dim: int = 4096
    decoder_ffn_dim: int = 4096
    max_position_embeddings: int = 1024
    activation_function: str = "gelu"
    scale_embedding: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    classifier_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    init_std: float = 0.02
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    decoder_start_token_id: int = 2

    def __post_init__(self) -> None:
        if self.activation_function not in ACTIVATIONS:
            raise ValueError(f"activation_function {self.activation_function!r} is not one of {sorted(ACTIVATIONS)}")
        for side in ("encoder", "decoder"):
            heads = getattr(self, f"{side}_attention_heads")
            if heads < 1 or self.d_model % heads:
                raise ValueError(f"d_model {self.d_model} is not divisible by {side}_attention_heads {heads}")
        for name in ("vocab_size", "max_position_embeddings", "encoder_layers", "decoder_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Config:
        """From the contents of a Hugging Face config.json; ValueError for any architecture but BART's."""
        if (model_type := fields.get("model_type")) != "bart":
            raise ValueError(f"model_type {model_type!r} is not supported: only 'bart' is")
        for name in ("normalize_before", "add_final_layer_norm", "static_position_embeddings"):
            if fields.get(name):  # mBART and Marian models of 2020 were saved with model_type "bart"
                raise ValueError(f"{name}=true is not BART's architecture and is not supported")
        return cls(**{f.name: fields[f.name] for f in dataclasses.fields(cls) if fields.get(f.name) is not None})


# ── Parameter format ──────────────────────────────────────────────────────────────────────────────────────────────────


def param_shapes(config: Config, dtype: Any = jnp.float32) -> Params:
    """The parameter tree, with a jax.ShapeDtypeStruct for each array. init and convert replace each by its array."""
    D, V, P = config.d_model, config.vocab_size, config.max_position_embeddings + 2

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    def stack(L: int, H: int, F: int, attentions: tuple[str, ...]) -> Params:
        norm = {"weight": array(L, D), "bias": array(L, D)}
        project = {"weight": array(L, H, D, D // H), "bias": array(L, H, D // H)}
        out_proj = {"weight": array(L, H, D // H, D), "bias": array(L, D)}
        layers: Params = {"fc1": {"weight": array(L, D, F), "bias": array(L, F)}}
        layers |= {"fc2": {"weight": array(L, F, D), "bias": array(L, D)}, "final_layer_norm": norm}
        for name in attentions:
            layers[name] = {"q_proj": project, "k_proj": project, "v_proj": project, "out_proj": out_proj}
            layers[f"{name}_layer_norm"] = norm
        embedding_norm = {"weight": array(D), "bias": array(D)}
        return {"embed_positions": array(P, D), "layernorm_embedding": embedding_norm, "layers": layers}

    c = config
    return {
        "shared": array(V, D),  # source, target and output embeddings are one matrix
        "encoder": stack(c.encoder_layers, c.encoder_attention_heads, c.encoder_ffn_dim, ("self_attn",)),
        "decoder": stack(c.decoder_layers, c.decoder_attention_heads, c.decoder_ffn_dim, ("self_attn", "encoder_attn")),
        "final_logits_bias": array(V),
    }


# ── Conversion ────────────────────────────────────────────────────────────────────────────────────────────────────────

State = dict[str, Callable[[], Any]]  # PyTorch's name -> a function that reads the tensor
leaf_name = functools.partial(jax.tree_util.keystr, simple=True, separator=".")  # as "encoder.layers.fc1.weight"
SPLIT = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")  # copies of "shared.weight"
HEADS = ("classification_head.", "qa_outputs.")  # task heads are converted too; the model itself does not use them


def from_pytorch(leaf: str, a: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor in the shape of our leaf. PyTorch's Linear stores a matrix as (out, in), with heads flattened."""
    if leaf.endswith(SPLIT):
        H, D, K = shape
        return a.reshape(H, K, D).swapaxes(1, 2)
    return a.T.reshape(shape) if leaf.endswith(".weight") else a.reshape(shape)


def to_pytorch(leaf: str, a: np.ndarray) -> np.ndarray:
    """The inverse of from_pytorch."""
    if leaf.endswith(SPLIT):
        return a.swapaxes(1, 2).reshape(-1, a.shape[1])
    if leaf.endswith(".weight") and a.ndim > 1:
        return a.reshape(-1, a.shape[-1]).T
    if leaf == "final_logits_bias":
        return a.reshape(1, -1)
    return a.reshape(-1) if leaf.endswith("_proj.bias") else a


def take(state: State, name: str, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
    """Reads a tensor in our leaf's shape and removes it from `state`; ValueError if it is missing or misshapen."""
    if name not in state:
        raise ValueError(f"the checkpoint has no tensor {name!r}")
    a = np.asarray(state.pop(name)())
    expected = jax.eval_shape(functools.partial(to_pytorch, leaf), jax.ShapeDtypeStruct(shape, a.dtype)).shape
    if a.shape != expected:
        raise ValueError(f"{name} has shape {a.shape}, the config asks for {expected}")
    return from_pytorch(leaf, a, shape)


def take_leaf(state: State, pytorch_name: Callable[..., str], path: Any, leaf: Any, join: Any = np.stack) -> Any:
    """The array for a leaf of param_shapes; `join` makes a stacked leaf of the tensors of all layers."""
    if "layers" not in leaf_name(path):
        return take(state, pytorch_name(path), leaf_name(path), leaf.shape)
    return join([take(state, pytorch_name(path, i), leaf_name(path), leaf.shape[1:]) for i in range(leaf.shape[0])])


def give(params: Params, pytorch_name: Callable[..., str]) -> Iterator[tuple[str, np.ndarray]]:
    """The inverse of take_leaf: every tensor of the tree, with PyTorch's name and shape."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        a = np.asarray(leaf)
        for i, part in enumerate(a if "layers" in leaf_name(path) else [a]):
            yield pytorch_name(path, i), np.ascontiguousarray(to_pytorch(leaf_name(path), part))


def pytorch_name(path: jax.tree_util.KeyPath, layer: int = 0) -> str:
    """The name of a leaf, or of one layer of it, in Hugging Face's state dict, without the prefix `model.`."""
    name = leaf_name(path).replace(".layers.", f".layers.{layer}.")
    return f"{name}.weight" if name.endswith(("shared", "embed_positions")) else name


def open_state(state_dict: Mapping[str, Any], config: Config) -> State:
    """The State, without the prefix `model.` and equal copies of the embedding; a missing final_logits_bias is 0."""
    state: State = {n.removeprefix("model."): functools.partial(state_dict.__getitem__, n) for n in state_dict}
    state.setdefault("final_logits_bias", lambda: np.zeros((1, config.vocab_size), np.float32))
    for name in [name for name in TIED if name in state]:
        copy = state.pop(name)
        if not np.array_equal(copy(), state.setdefault("shared.weight", copy)()):
            raise ValueError(f"{name} differs from shared.weight or a copy: untied embeddings are not supported")
    return state


def convert(state_dict: Mapping[str, Any], config: Config, join: Any = np.stack) -> Params:
    """PyTorch's tensors to our tree, in numpy and the dtype they come in; ValueError names a key that does not fit."""
    state, shapes = open_state(state_dict, config), param_shapes(config)
    for name in [name for name in state if name.startswith(HEADS)]:
        *parents, last = name.split(".")
        node = functools.reduce(lambda node, part: node.setdefault(part, {}), parents, shapes)
        node[last] = jax.ShapeDtypeStruct(np.shape(state[name]())[::-1], np.float32)
    params = jax.tree_util.tree_map_with_path(functools.partial(take_leaf, state, pytorch_name, join=join), shapes)
    if unknown := sorted(state.keys() - {"encoder.version", "decoder.version"}):  # fairseq wrote these two
        raise ValueError(f"the checkpoint has tensors that BART does not: {unknown[:5]}")
    return params


def revert(params: Params, config: Config) -> dict[str, np.ndarray]:
    """Our tree to PyTorch's names and shapes, with the prefix `model.` where BartForConditionalGeneration has it."""
    outside = ("final_logits_bias", *HEADS)
    return {n if n.startswith(outside) else f"model.{n}": a for n, a in give(params, pytorch_name)}


# ── Initialization ────────────────────────────────────────────────────────────────────────────────────────────────────


def init(config: Config, key: Array) -> Params:
    """Fresh float32 params from PyTorch's distribution (BartPreTrainedModel._init_weights).

    Matrices and embeddings are N(0, init_std); biases, final_logits_bias and the token embedding's pad row are zero;
    layer norms start as the identity.
    """

    def fresh(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct, key: Array) -> Array:
        name = pytorch_name(path)
        if name.endswith("bias"):
            return jnp.zeros_like(leaf)
        if "norm" in name:
            return jnp.ones_like(leaf)
        return config.init_std * jax.random.normal(key, leaf.shape, leaf.dtype)

    shapes = param_shapes(config)
    keys = list(jax.random.split(key, len(jax.tree.leaves(shapes))))
    keys = jax.tree.unflatten(jax.tree.structure(shapes), keys)
    params = jax.tree_util.tree_map_with_path(fresh, shapes, keys)
    return params | {"shared": params["shared"].at[config.pad_token_id].set(0.0)}


# ── Primitives ────────────────────────────────────────────────────────────────────────────────────────────────────────


def split(key: Array | None, n: int) -> Any:
    """n dropout keys, or n times None: without a key nothing is dropped."""
    return (None,) * n if key is None else jax.random.split(key, n)


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0).astype(x.dtype)


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    """Normalizes the last axis (any other axis would mix tokens), by population variance, in at least float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centered = wide - wide.mean(-1, keepdims=True)
    normed = centered / jnp.sqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-5)
    return (normed * weight + bias).astype(x.dtype)


def linear(x: Array, weight: Array, bias: Array) -> Array:
    return einsum("btd,df->btf", x, weight) + bias


def split_heads(x: Array, weight: Array, bias: Array) -> Array:
    return einsum("btd,hdk->bhtk", x, weight) + bias[:, None]


def merge_heads(x: Array, weight: Array, bias: Array) -> Array:
    return einsum("bhtk,hkd->btd", x, weight) + bias


def attend(q: Array, k: Array, v: Array, mask: Array, rate: float = 0.0, key: Array | None = None) -> Array:
    """Scaled dot-product attention: q (B,H,T,K), k and v (B,H,S,K), mask true where a query may look, -> (B,H,T,K).

    A query that may look nowhere gives every key the same weight, so that a row of padding stays finite.
    """
    scores = einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=jnp.promote_types(q.dtype, jnp.float32))
    scores = jnp.where(mask, scores * k.shape[-1] ** -0.5, jnp.finfo(scores.dtype).min)
    weights = dropout(jax.nn.softmax(scores), rate, key).astype(v.dtype)
    return einsum("bhts,bhsk->bhtk", weights, v)


def embed(side: Params, shared: Array, ids: Array, config: Config, key: Array | None = None) -> Array:
    """Token plus position embeddings, normed: ids (B,T) -> (B,T,D).

    Position i is row i + 2, wherever the padding is (BartLearnedPositionalEmbedding.offset; fairseq counts positions
    from its padding id + 1). A lookup of the padding token sends no gradient back (torch's padding_idx).
    """
    tokens = shared[ids] * (math.sqrt(config.d_model) if config.scale_embedding else 1.0)
    tokens = jnp.where((ids == config.pad_token_id)[..., None], jax.lax.stop_gradient(tokens), tokens)
    x = layer_norm(tokens + side["embed_positions"][2 : 2 + ids.shape[1]], **side["layernorm_embedding"])
    return dropout(x, config.dropout, key)


# ── Layer, encoder, decoder ───────────────────────────────────────────────────────────────────────────────────────────


def layer(
    x: Array, mask: Array, memory: Array | None, memory_mask: Array | None, config: Config, key: Array | None,
    **p: Params,
) -> Array:  # fmt: skip
    """One encoder layer, or decoder layer if it has an `encoder_attn`: post-norm, x = norm(x + dropout(f(x)))."""
    keys = iter(split(key, 7))

    def residual(x: Array, y: Array, norm: str) -> Array:
        return layer_norm(x + dropout(y, config.dropout, next(keys)), **p[norm])

    def attention(x: Array, memory: Array, mask: Array, w: Params) -> Array:
        q, k, v = (split_heads(y, **w[name]) for y, name in ((x, "q_proj"), (memory, "k_proj"), (memory, "v_proj")))
        return merge_heads(attend(q, k, v, mask, config.attention_dropout, next(keys)), **w["out_proj"])

    x = residual(x, attention(x, x, mask, p["self_attn"]), "self_attn_layer_norm")
    if "encoder_attn" in p:
        assert memory is not None and memory_mask is not None
        x = residual(x, attention(x, memory, memory_mask, p["encoder_attn"]), "encoder_attn_layer_norm")
    hidden = ACTIVATIONS[config.activation_function](linear(x, **p["fc1"]))
    hidden = dropout(hidden, config.activation_dropout, next(keys))
    return residual(x, linear(hidden, **p["fc2"]), "final_layer_norm")


def run_layers(
    layers: Params, x: Array, mask: Array, memory: Array | None, memory_mask: Array | None, config: Config,
    layerdrop: float, key: Array | None,
) -> Array:  # fmt: skip
    """All layers of one side: a scan over the leading L axis. A layer that layerdrop draws is skipped."""

    def body(x: Array, layer_and_key: tuple[Params, Array | None]) -> tuple[Array, None]:
        weights, key = layer_and_key
        layer_key, drop_key = split(key, 2)
        y = layer(x, mask, memory, memory_mask, config, layer_key, **weights)
        if drop_key is not None and layerdrop > 0.0:
            y = jnp.where(jax.random.bernoulli(drop_key, layerdrop), x, y)
        return y, None

    depth = layers["fc1"]["bias"].shape[0]
    return jax.lax.scan(body, x, (layers, None if key is None else split(key, depth)))[0]


def encode(params: Params, config: Config, input_ids: Array, attention_mask: Array, key: Array | None = None) -> Array:
    """input_ids and attention_mask (B,S) -> the encoder's last hidden states (B,S,D)."""
    embed_key, layers_key = split(key, 2)
    x = embed(params["encoder"], params["shared"], input_ids, config, embed_key)
    mask = attention_mask.astype(bool)[:, None, None, :]  # no query sees a padding key; padding's own queries are kept
    return run_layers(params["encoder"]["layers"], x, mask, None, None, config, config.encoder_layerdrop, layers_key)


def decode(
    params: Params, config: Config, decoder_input_ids: Array, memory: Array, attention_mask: Array,
    decoder_attention_mask: Array | None = None, key: Array | None = None,
) -> Array:  # fmt: skip
    """decoder_input_ids (B,T) over the encoder's states (B,S,D) -> the decoder's last hidden states (B,T,D)."""
    T = decoder_input_ids.shape[1]
    embed_key, layers_key = split(key, 2)
    x = embed(params["decoder"], params["shared"], decoder_input_ids, config, embed_key)
    mask = jnp.tril(jnp.ones((1, 1, T, T), bool))
    if decoder_attention_mask is not None:
        mask &= decoder_attention_mask.astype(bool)[:, None, None, :]
    memory_mask = attention_mask.astype(bool)[:, None, None, :]
    layers = params["decoder"]["layers"]
    return run_layers(layers, x, mask, memory, memory_mask, config, config.decoder_layerdrop, layers_key)


def lm_head(params: Params, hidden: Array) -> Array:
    """(B,T,D) -> logits (B,T,V), at least float32: product with the unscaled embedding, plus an untrained bias."""
    dtype = jnp.promote_types(hidden.dtype, jnp.float32)
    logits = einsum("btd,vd->btv", hidden, params["shared"], preferred_element_type=dtype)
    return logits + jax.lax.stop_gradient(params["final_logits_bias"])


# ── Forward, loss, greedy ─────────────────────────────────────────────────────────────────────────────────────────────


@functools.partial(jax.jit, static_argnames="config")
def forward(
    params: Params, config: Config, input_ids: Array, attention_mask: Array, decoder_input_ids: Array,
    decoder_attention_mask: Array | None = None, dropout_key: Array | None = None,
) -> Array:  # fmt: skip
    """BartForConditionalGeneration: ids and masks (B,S), (B,S), (B,T), (B,T) -> logits (B,T,V), at least float32.

    A missing decoder_attention_mask means that every decoder position is real. A dropout_key switches dropout on. Ids
    and lengths are not checked (under jit an id out of range is clamped); bart_inference checks them.
    """
    encoder_key, decoder_key = split(dropout_key, 2)
    memory = encode(params, config, input_ids, attention_mask, encoder_key)
    hidden = decode(params, config, decoder_input_ids, memory, attention_mask, decoder_attention_mask, decoder_key)
    return lm_head(params, hidden)


def shift_right(labels: Array, config: Config) -> Array:
    """The decoder's inputs for labels (B,T): start token first, last label dropped, padding in place of -100."""
    start = jnp.full_like(labels[:, :1], config.decoder_start_token_id)
    shifted = jnp.concatenate([start, labels[:, :-1]], axis=1)
    return jnp.where(shifted == -100, config.pad_token_id, shifted)


@functools.partial(jax.jit, static_argnames="config")
def loss(
    params: Params, config: Config, input_ids: Array, attention_mask: Array, labels: Array,
    label_smoothing: float | Array = 0.0, dropout_key: Array | None = None,
) -> Array:  # fmt: skip
    """Mean cross entropy in nats over the labels (B,T) that are not -100, as torch.nn.CrossEntropyLoss."""
    logits = forward(params, config, input_ids, attention_mask, shift_right(labels, config), dropout_key=dropout_key)
    log_probs = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    per_token = (1.0 - label_smoothing) * nll - label_smoothing * log_probs.mean(-1)
    counted = labels != -100
    return jnp.where(counted, per_token, 0.0).sum() / counted.sum()


@functools.partial(jax.jit, static_argnames=("config", "max_length"))
def greedy(
    params: Params, config: Config, input_ids: Array, attention_mask: Array, max_length: int = 20,
    forced_bos_token_id: int | None = None, forced_eos_token_id: int | None = None,
) -> Array:  # fmt: skip
    """Greedy search with a whole forward for each token: the specification of bart_inference's generate.

    (B,S), (B,S) -> (B,max_length): the start token first, padding after the end-of-sequence token.
    """

    def step(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        ids, done = state
        token = forward(params, config, input_ids, attention_mask, ids)[:, t - 1].argmax(-1).astype(ids.dtype)
        if forced_bos_token_id is not None:
            token = jnp.where(t == 1, forced_bos_token_id, token)
        if forced_eos_token_id is not None:
            token = jnp.where(t == max_length - 1, forced_eos_token_id, token)
        token = jnp.where(done, config.pad_token_id, token)
        return ids.at[:, t].set(token), done | (token == config.eos_token_id)

    B = input_ids.shape[0]
    ids = jnp.full((B, max_length), config.pad_token_id, jnp.int32).at[:, 0].set(config.decoder_start_token_id)
    return jax.lax.fori_loop(1, max_length, step, (ids, jnp.zeros(B, bool)))[0]


# ── The one line ──────────────────────────────────────────────────────────────────────────────────────────────────────
# The logits of `forward` (gelu, unscaled embeddings, no dropout) in one expression, by four rules of rewriting:
#   let x = e in body  ->  (lambda x: body)(e)        loop over layers  ->  jax.lax.scan, which is an expression
#   statements in turn ->  nested calls               two cases         ->  one lambda, with "if" inside the expression
# The idea is from ayaka14732's bart-base in one line (2022, 5,242 characters).
bart = lambda params, input_ids, attention_mask, decoder_input_ids: (lambda linear, norm, attend: (lambda side: jnp.einsum("btd,vd->btv", side("decoder", decoder_input_ids, jnp.tri(decoder_input_ids.shape[1]), side("encoder", input_ids, attention_mask[:, None, None], None)), params["shared"]) + params["final_logits_bias"])(lambda name, ids, mask, memory: jax.lax.scan(lambda x, layer: ((lambda x: norm(x + linear(jax.nn.gelu(linear(x, **layer["fc1"]), approximate=False), **layer["fc2"]), **layer["final_layer_norm"]))((lambda x: x if memory is None else norm(x + attend(x, memory, attention_mask[:, None, None], **layer["encoder_attn"]), **layer["encoder_attn_layer_norm"]))(norm(x + attend(x, x, mask, **layer["self_attn"]), **layer["self_attn_layer_norm"]))), None), norm(params["shared"][ids] + params[name]["embed_positions"][2:ids.shape[1] + 2], **params[name]["layernorm_embedding"]), params[name]["layers"])[0]))(lambda x, weight, bias: x @ weight + bias, lambda x, weight, bias: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias, lambda x, y, mask, q_proj, k_proj, v_proj, out_proj: jnp.einsum("bhtk,hkd->btd", (lambda q, k, v: jax.nn.softmax(jnp.where(mask, q @ k.mT * k.shape[-1] ** -0.5, -1e30)) @ v)(*(z[:, None] @ p["weight"] + p["bias"][:, None] for z, p in ((x, q_proj), (y, k_proj), (y, v_proj)))), out_proj["weight"]) + out_proj["bias"])  # type: ignore  # noqa: E501  # fmt: skip


if __name__ == "__main__":
    from bart_inference.cli import main

    raise SystemExit(main())
