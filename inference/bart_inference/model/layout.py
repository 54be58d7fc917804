"""Derived parameters: the form that a device likes best, made once from the checkpoint's.

Letters as in bart_oneliner. Heads are flattened into D = H·K, the three self-attention projections and the two of
cross-attention that read the source are fused into one matrix each, and layers are a list instead of a stacked axis: on
XLA:CPU a scan copies every layer's weights out of the stack at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
        dtype = model.params["shared"].dtype
        raise ValueError(f"layout 'onednn' needs float32 weights and a CPU and jaxlib with oneDNN; these are {dtype}")
    params = jax.tree.map(np.asarray, model.params)  # on the host
    return Prepared(derive(params, layout, lambda array: place(jnp.asarray(array))), *model[1:])


def default_layout(model: Model) -> str:
    backend = jax.default_backend()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    return "onednn" if backend == "cpu" and size > MIN_BYTES_FOR_ONEDNN and fits_onednn(model) else backend


def fits_onednn(model: Model) -> bool:
    return model.params["shared"].dtype == np.float32 and onednn.available()


def derive(params: Params, layout: str, finish: Callable[[Any], Any] = lambda array: array) -> Params:
    """bart_oneliner's parameter tree -> the weights that `transformer` reads.

    {"shared": (V,D), "head": (D,V) or absent, "final_logits_bias": (V,), "attention": what computes it, "encoder" and
    "decoder": {"embed_positions", "layernorm_embedding", "layers": [{"qkv": (D,3D), "out": (D,D), "norm", "fc1", "fc2",
    "final_norm", and in the decoder "cross_q": (D,D), "cross_kv": (D,2D), "cross_out": (D,D), "cross_norm"}, …]}}, and
    task heads ("classification_head", "qa_outputs"). Matrices are weights.Dense or, but for the task heads', Panels in
    the layout "onednn"; each has its bias beside it.

    Every array is handed to `finish` as soon as it is made, and the next is made after that. numpy arrays are derived
    by numpy, and under jax.eval_shape shapes give shapes. A leaf of the layers may be a list of each layer's array.
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
        depth = len(p["layers"]["fc1"]["bias"])
        layers = (jax.tree.map(lambda leaf, i=i: leaf[i], p["layers"], is_leaf=is_list) for i in range(depth))
        rest = {name: p[name] for name in ("embed_positions", "layernorm_embedding")}
        return {**jax.tree.map(finish, rest), "layers": [layer(p) for p in layers]}

    def task_head(p: Params) -> Params:
        if "weight" in p:
            return {"weight": Dense(finish(p["weight"])), "bias": finish(p["bias"])}
        return {name: task_head(part) for name, part in p.items()}

    xp = params["shared"].__array_namespace__()
    # The largest matrix first: what is needed for a moment to make it is given back before the rest exists.
    head = {"head": matrix(params["shared"].T)} if layout in ("onednn", "cpu") else {}
    return {
        **head,
        "shared": finish(params["shared"]),
        "final_logits_bias": finish(params["final_logits_bias"]),
        "attention": Attention.ONEDNN if layout == "onednn" else Attention.XLA,
        "encoder": side(params["encoder"]),
        "decoder": side(params["decoder"]),
        **{name: task_head(params[name]) for name in ("classification_head", "qa_outputs") if name in params},
    }


def is_list(node: Any) -> bool:
    return isinstance(node, list)
