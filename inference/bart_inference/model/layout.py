"""Derived parameters: the form that a device likes best, made once from the checkpoint's.

Letters as in bart_oneliner. Heads are flattened into D = H·K, the three self-attention projections and the two of
cross-attention that read the source are fused into one matrix each, and layers are a list instead of a stacked axis: on
XLA:CPU a scan copies every layer's weights out of the stack at each step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from tokenizers import Tokenizer

from bart_inference.checkpoint import Model
from bart_inference.devices import place
from bart_inference.model import onednn
from bart_inference.model.weights import Attention, Dense, Panels, Weight
from bart_oneliner import Config, Params

MIN_BYTES_FOR_ONEDNN = 100 * 2**20  # of weights; fewer stay in the caches, where XLA's own products are as fast
LAYOUTS = ("onednn", "cpu", "gpu", "tpu")


class Prepared(NamedTuple):
    """A Model whose weights are in a device's layout."""

    weights: Params
    config: Config
    generation: Mapping[str, Any]
    tokenizer: Tokenizer | None
    labels: tuple[str, ...] = ()
    config_json: Mapping[str, Any] = {}


def prepare(model: Model | Prepared, layout: str | None = None) -> Prepared:
    """The derived form of a model for a device, `layout` being one of LAYOUTS (the default device's if None).

    A prepared model is returned as it is. Where this process has several devices, each gets all weights. A CPU's layout
    is "onednn", its matrices in panels, for float32 weights that outgrow the caches where jaxlib has that library, and
    "cpu" else. Both keep a transposed output embedding (D,V) beside the embedding itself: few-row products with the
    (V,D) matrix take up to twice as long there. Programs of "onednn" run faster, those of "cpu" can be stored in JAX's
    persistent compile cache: the better choice for a process that writes few texts and ends. ValueError for an unknown
    layout, and for "onednn" where the weights are not float32 or jaxlib lacks it.
    """
    if isinstance(model, Prepared):
        return model
    layout = layout or default_layout(model)
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not one of {LAYOUTS}")
    if layout == "onednn" and not fits_onednn(model):
        dtype = dtype_of(model)
        raise ValueError(f"layout 'onednn' needs float32 weights and a CPU and jaxlib with oneDNN; these are {dtype}")
    on_host = jax.tree.map(np.asarray, model.tensors)  # copies nothing if the device is a CPU
    read = functools.partial(np.asarray, dtype=dtype_of(model))
    weights = derive(on_host, layout, read, place)
    return Prepared(weights, model.config, model.generation, model.tokenizer, model.labels, model.config_json)


def default_layout(model: Model) -> str:
    backend = jax.default_backend()
    size = sum(leaf.size for leaf in jax.tree.leaves(model.tensors)) * dtype_of(model).itemsize
    return "onednn" if backend == "cpu" and size > MIN_BYTES_FOR_ONEDNN and fits_onednn(model) else backend


def fits_onednn(model: Model) -> bool:
    return dtype_of(model) == np.float32 and onednn.available()


def dtype_of(model: Model) -> np.dtype:
    """The dtype of the model's params."""
    return np.dtype(model.dtype or model.tensors["shared"].dtype)


def derive(
    params: Params, layout: str,
    read: Callable[[Any], Any] = lambda leaf: leaf, finish: Callable[[Any], Any] = lambda array: array,
) -> Params:  # fmt: skip
    """bart_oneliner's parameter tree -> the weights that `transformer` reads.

    {"shared": (V,D), "head": (D,V) or absent, "final_logits_bias": (V,), "attention": what computes it, "encoder" and
    "decoder": {"embed_positions", "layernorm_embedding", "layers": [{"qkv": (D,3D), "out": (D,D), "norm", "fc1", "fc2",
    "final_norm", and in the decoder "cross_q": (D,D), "cross_kv": (D,2D), "cross_out": (D,D), "cross_norm"}, …]}}, and
    task heads ("classification_head", "qa_outputs"). Matrices are weights.Dense or, but for the task heads', Panels in
    the layout "onednn"; each has its bias beside it.

    A leaf of the layers may be a list of each layer's array. Arrays are passed through `read` when their layer's turn
    comes, and what is derived from them through `finish` at once, so that little is in memory beside the weights.
    numpy arrays give numpy arrays, and under jax.eval_shape shapes give shapes.
    """

    def matrix(weight: Any, width: int = onednn.PANEL) -> Weight:
        if layout == "onednn":
            return Panels(finish(onednn.pack(weight, width)), weight.shape[1])
        return Dense(finish(weight))

    def fuse(*projections: Params) -> Params:
        """Projections to heads, side by side in one matrix; a panel is a head's."""
        _, D, K = projections[0]["weight"].shape
        weights = [p["weight"].swapaxes(0, 1).reshape(D, -1) for p in projections]
        return {
            "weight": matrix(xp.concat(weights, axis=1), K),
            "bias": finish(xp.concat([p["bias"].reshape(-1) for p in projections])),
        }

    def plain(p: Params) -> Params:
        return {"weight": matrix(p["weight"].reshape(-1, p["weight"].shape[-1])), "bias": finish(p["bias"])}

    def layer(p: Params) -> Params:
        own = p["self_attn"]
        derived = {
            "qkv": fuse(own["q_proj"], own["k_proj"], own["v_proj"]),
            "out": plain(own["out_proj"]),
            "norm": jax.tree.map(finish, p["self_attn_layer_norm"]),
            "fc1": plain(p["fc1"]),
            "fc2": plain(p["fc2"]),
            "final_norm": jax.tree.map(finish, p["final_layer_norm"]),
        }
        if cross := p.get("encoder_attn"):
            derived |= {
                "cross_q": fuse(cross["q_proj"]),
                "cross_kv": fuse(cross["k_proj"], cross["v_proj"]),
                "cross_out": plain(cross["out_proj"]),
                "cross_norm": jax.tree.map(finish, p["encoder_attn_layer_norm"]),
            }
        return derived

    def side(p: Params) -> Params:
        def nth(i: int) -> Params:
            return jax.tree.map(lambda leaf: read(leaf[i]), p["layers"], is_leaf=is_list)

        layers = [layer(nth(i)) for i in range(len(p["layers"]["fc1"]["bias"]))]
        return {**{name: as_is(p[name]) for name in ("embed_positions", "layernorm_embedding")}, "layers": layers}

    def task_head(p: Params) -> Params:
        if "weight" in p:
            return {"weight": Dense(as_is(p["weight"])), "bias": as_is(p["bias"])}
        return {name: task_head(part) for name, part in p.items()}

    def as_is(p: Any) -> Any:
        return jax.tree.map(lambda leaf: finish(read(leaf)), p)

    xp = params["shared"].__array_namespace__()
    # The largest matrix first: what is needed for a moment to make it is given back before the rest exists.
    head = {"head": matrix(read(params["shared"]).T)} if layout in ("onednn", "cpu") else {}
    return {
        **head,
        **{name: as_is(params[name]) for name in ("shared", "final_logits_bias")},
        "attention": Attention.ONEDNN if layout == "onednn" else Attention.XLA,
        **{name: side(params[name]) for name in ("encoder", "decoder")},
        **{name: task_head(params[name]) for name in ("classification_head", "qa_outputs") if name in params},
    }


def is_list(node: Any) -> bool:
    return isinstance(node, list)
