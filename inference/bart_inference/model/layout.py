"""Layouts: the form of the parameters that a device reads fastest, made once from the checkpoint's form.

Letters as in bart_oneliner. In every layout heads are flattened (D = H·K), and the projections of one input are fused
into one matrix: queries, keys and values of self-attention, keys and values of cross-attention. Layers are a list
instead of a stacked axis, since on XLA:CPU a scan copies every layer's weights out of the stack at each step.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from tokenizers import Tokenizer

from bart_inference.checkpoint import Model
from bart_inference.devices import place
from bart_inference.model import onednn, processor
from bart_inference.model.weights import Attention, Dense, Int8, Panels, Weight, quantize
from bart_oneliner import Config, Params

log = logging.getLogger(__name__)
# float32 weights with fewer bytes stay in the processor's caches, where XLA is as fast as oneDNN.
MIN_BYTES_FOR_ONEDNN = 100 * 2**20
COLUMNS_AT_ONCE = 4096  # quantized at a time, because quantizing takes three times the memory of its input
LAYOUTS = ("onednn", "cpu", "gpu", "tpu")


class Prepared(NamedTuple):
    """A Model whose weights are in a device's layout. Its other fields are those of the Model."""

    weights: Params  # see `derive`
    config: Config
    generation: Mapping[str, Any]
    tokenizer: Tokenizer | None
    labels: tuple[str, ...] = ()
    config_json: Mapping[str, Any] = {}

    @property
    def dtype(self) -> str:
        """One of checkpoint.DTYPES: "int8" if the products are computed in int8, else the dtype of the weights."""
        if isinstance(self.weights["encoder"]["layers"][0]["fc1"]["weight"], Int8):
            return "int8"
        return str(self.weights["shared"].dtype)


def prepare(model: Model | Prepared, layout: str | None = None, dtype: str | None = None) -> Prepared:
    """A model with its weights on the devices of this process, in a layout: one of LAYOUTS, or None for the default.

    A prepared model is returned as it is. Where this process has several devices, each gets all weights.

    dtype: one of checkpoint.DTYPES, as in `load`; None for the model's own. "int8" and "bfloat16" are modes for speed,
    which change some texts.
    - "bfloat16": weights and activations are rounded to bfloat16.
    - "int8": the matrices of encoder, decoder and language-model head are rounded to int8 with a scale for each column,
      and the rows that are multiplied with them to int8 with a scale for each row. Everything else is float32.
    A line is logged, once, if a CPU is no faster with them than with float32, because its processor lacks instructions
    for them or its jaxlib oneDNN.

    On a CPU the default layout is "onednn", with matrices in panels, if jaxlib has oneDNN and the dtype is int8,
    bfloat16, or float32 with weights that are larger than the processor's caches, and "cpu" otherwise. Programs of
    "onednn" run faster. Programs of "cpu" can be stored in JAX's persistent compilation cache, which suits a process
    that writes few texts and ends. Both also keep a copy of the embedding (V,D) transposed to (D,V) for the
    language-model head: a product of few rows with (V,D) takes up to twice as long.

    ValueError for an unknown layout or dtype, for a dtype that a prepared model does not have, and for "onednn" where
    jaxlib lacks oneDNN for the dtype.
    """
    if isinstance(model, Prepared):
        if dtype not in (None, model.dtype):
            raise ValueError(f"dtype {dtype!r} is not that of the prepared model, {model.dtype!r}")
        return model
    if dtype is not None:
        model = model.with_dtype(dtype)
    dtype = dtype_of(model)
    layout = layout or default_layout(model)
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not one of {LAYOUTS}")
    if layout == "onednn" and not has_onednn(dtype):
        raise ValueError(f"layout 'onednn' needs a CPU and a jaxlib with oneDNN's product in {dtype}")
    if layout == "cpu":
        warn_if_slow(dtype)
    on_host = jax.tree.map(np.asarray, model.tensors)  # copies nothing if the device is a CPU
    read = functools.partial(np.asarray, dtype=params_dtype(model))
    weights = derive(on_host, layout, read, place, model.int8)
    return Prepared(weights, model.config, model.generation, model.tokenizer, model.labels, model.config_json)


def dtype_of(model: Model) -> str:
    """The one of checkpoint.DTYPES that the model is computed in."""
    return "int8" if model.int8 else str(params_dtype(model))


def params_dtype(model: Model) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(model.dtype or model.tensors["shared"].dtype)
    return dtype


def default_layout(model: Model) -> str:
    """The layout that `prepare` gives a model on this process's default device."""
    backend = jax.default_backend()
    dtype = dtype_of(model)
    if backend == "cpu" and gains_from_onednn(model, dtype) and has_onednn(dtype):  # has_onednn compiles trials
        return "onednn"
    return backend


def has_onednn(dtype: str) -> bool:
    """Whether weights of a dtype (see Prepared.dtype) can be in the layout "onednn" in this process."""
    return dtype in ("float32", *processor.INSTRUCTIONS) and onednn.available(dtype)


def gains_from_onednn(model: Model, dtype: str) -> bool:
    """Whether a model is faster in the layout "onednn" than in "cpu", on a processor where both are possible."""
    if dtype == "float32":
        elements: int = sum(leaf.size for leaf in jax.tree.leaves(model.tensors))
        return elements * 4 > MIN_BYTES_FOR_ONEDNN
    return processor.has_instructions(dtype)


@functools.cache
def warn_if_slow(dtype: str) -> None:
    """Logs that a mode is slower than float32 in the layout "cpu", once for each mode."""
    if dtype in processor.INSTRUCTIONS:
        log.warning(
            "dtype %s is slower than float32 here: it needs a processor with one of %s, and jaxlib's oneDNN",
            dtype, ", ".join(processor.INSTRUCTIONS[dtype]),
        )  # fmt: skip


def unchanged(array: Any) -> Any:
    return array


def is_list(node: Any) -> bool:
    return isinstance(node, list)


def derive(
    params: Params,
    layout: str,
    read: Callable[[Any], Any] = unchanged,
    finish: Callable[[Any], Any] = unchanged,
    int8: bool = False,
) -> Params:
    """bart_oneliner's parameter tree -> the weights that `transformer` reads.

    {"shared": (V,D), "head": (D,V) or absent, "final_logits_bias": (V,), "attention": weights.Attention, "encoder" and
    "decoder": {"embed_positions", "layernorm_embedding", "layers": [{"qkv": (D,3D), "out": (D,D), "norm", "fc1", "fc2",
    "final_norm", and in the decoder "cross_q": (D,D), "cross_kv": (D,2D), "cross_out": (D,D), "cross_norm"}, …]}}, and
    task heads ("classification_head", "qa_outputs"). Each matrix is a weights.Weight with its bias beside it: Panels in
    the layout "onednn", Dense in the others and in the task heads. With int8 it is an Int8 of one of these, except in
    the task heads.

    A leaf of the stacked layers may be a list with each layer's array. `read` is applied to an array when its layer is
    derived, and `finish` to each derived array at once: so only one layer's arrays exist in both forms. numpy arrays
    give numpy arrays, and under jax.eval_shape shapes give shapes.
    """
    derivation = Derivation(layout, read, finish, int8, params["shared"].__array_namespace__())
    weights: Params = {}
    if layout in ("onednn", "cpu") or int8:
        # The largest matrix comes first: the memory that its transposition takes is free again before the rest exists.
        weights["head"] = derivation.matrix(read(params["shared"]).T)
    for name in ("shared", "final_logits_bias"):
        weights[name] = derivation.as_is(params[name])
    weights["attention"] = Attention.ONEDNN if layout == "onednn" else Attention.XLA
    for name in ("encoder", "decoder"):
        weights[name] = derivation.stack(params[name])
    for name in ("classification_head", "qa_outputs"):
        if name in params:
            weights[name] = derivation.task_head(params[name])
    return weights


class Derivation(NamedTuple):
    """How arrays of a checkpoint become arrays of a layout; the arguments of `derive`."""

    layout: str
    read: Callable[[Any], Any]
    finish: Callable[[Any], Any]
    int8: bool
    xp: Any  # the arrays' namespace: numpy or jax.numpy

    def matrix(self, weight: Any, panel: int = onednn.PANEL) -> Weight:
        """A matrix (D,F) in the layout's form. panel: columns of a panel."""
        if not self.int8:
            return self.arrange(weight, panel)
        integers, scales = [], []
        for first in range(0, weight.shape[1], COLUMNS_AT_ONCE):
            block, scale = quantize(weight[:, first : first + COLUMNS_AT_ONCE], axis=0)
            integers.append(block)
            scales.append(scale[0])
        return Int8(self.arrange(self.xp.concat(integers, axis=1), panel), self.finish(self.xp.concat(scales)))

    def arrange(self, weight: Any, panel: int) -> Dense | Panels:
        """A matrix (D,F) as panels or as one array, whatever its dtype."""
        if self.layout == "onednn":
            return Panels(self.finish(onednn.to_panels(weight, panel)), weight.shape[1])
        return Dense(self.finish(weight))

    def fuse(self, *projections: Params) -> Params:
        """Projections to heads, each (H,D,K), side by side in one matrix (D,F); a panel holds one head."""
        _, D, K = projections[0]["weight"].shape
        weights = [projection["weight"].swapaxes(0, 1).reshape(D, -1) for projection in projections]
        biases = [projection["bias"].reshape(-1) for projection in projections]
        return {
            "weight": self.matrix(self.xp.concat(weights, axis=1), K),
            "bias": self.finish(self.xp.concat(biases)),
        }

    def linear(self, p: Params) -> Params:
        """A matrix, (D,F) or from heads (H,K,D), and its bias."""
        columns = p["weight"].shape[-1]
        return {"weight": self.matrix(p["weight"].reshape(-1, columns)), "bias": self.finish(p["bias"])}

    def norm(self, p: Params) -> Params:
        """A layer norm's weight and bias."""
        return {name: self.finish(p[name]) for name in ("weight", "bias")}

    def layer(self, p: Params) -> Params:
        """One layer's arrays -> its weights."""
        attention = p["self_attn"]
        weights = {
            "qkv": self.fuse(attention["q_proj"], attention["k_proj"], attention["v_proj"]),
            "out": self.linear(attention["out_proj"]),
            "norm": self.norm(p["self_attn_layer_norm"]),
            "fc1": self.linear(p["fc1"]),
            "fc2": self.linear(p["fc2"]),
            "final_norm": self.norm(p["final_layer_norm"]),
        }
        if "encoder_attn" in p:
            attention = p["encoder_attn"]
            weights["cross_q"] = self.fuse(attention["q_proj"])
            weights["cross_kv"] = self.fuse(attention["k_proj"], attention["v_proj"])
            weights["cross_out"] = self.linear(attention["out_proj"])
            weights["cross_norm"] = self.norm(p["encoder_attn_layer_norm"])
        return weights

    def stack(self, p: Params) -> Params:
        """The encoder's or the decoder's arrays -> its weights, with a list of layers instead of a stacked axis."""
        layers = []
        for i in range(len(p["layers"]["fc1"]["bias"])):
            read_layer = functools.partial(self.read_nth, i=i)
            layers.append(self.layer(jax.tree.map(read_layer, p["layers"], is_leaf=is_list)))
        return {
            "embed_positions": self.as_is(p["embed_positions"]),
            "layernorm_embedding": self.as_is(p["layernorm_embedding"]),
            "layers": layers,
        }

    def read_nth(self, leaf: Any, i: int) -> Any:
        """Layer i's part of a stacked leaf (L,…), or of a list with each layer's array."""
        return self.read(leaf[i])

    def task_head(self, p: Params) -> Params:
        """A task head's linear layers, which keep the names and the nesting of the checkpoint."""
        if "weight" in p:
            return {"weight": Dense(self.as_is(p["weight"])), "bias": self.as_is(p["bias"])}
        return {name: self.task_head(part) for name, part in p.items()}

    def as_is(self, p: Any) -> Any:
        """The arrays of p, read and finished without another change: they have the same form in every layout."""

        def read_and_finish(leaf: Any) -> Any:
            return self.finish(self.read(leaf))

        return jax.tree.map(read_and_finish, p)
