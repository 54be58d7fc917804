"""Derived parameters: the form that a device likes best, made once from the checkpoint's.

Letters as in bart_oneliner. Heads are flattened into D = H·K, the three self-attention projections and the two of
cross-attention that read the source are fused into one matrix each, and layers are a list instead of a stacked axis: on
XLA:CPU a scan copies every layer's weights out of the stack at each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from bart_inference.checkpoint import Model
from bart_inference.devices import place
from bart_inference.model import onednn
from bart_oneliner import Array, Config, Params

CACHED = 100 * 2**20  # bytes of weights that may stay in the caches: XLA's own products are as fast as oneDNN's then
LAYOUTS = ("onednn", "cpu", "gpu", "tpu")


class Prepared(NamedTuple):
    """A Model whose weights are in a device's layout."""

    weights: Params
    config: Config
    generation: Mapping[str, Any]
    tokenizer: Tokenizer | None
    labels: tuple[str, ...] = ()
    config_json: Mapping[str, Any] = MappingProxyType({})


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
    leaves, tree = jax.tree.flatten(derive(jax.tree.map(np.asarray, model.params), layout))  # on the host
    leaves.reverse()
    arrays = [jnp.asarray(leaves.pop()) for _ in range(len(leaves))]  # each is given up as soon as it is copied
    return Prepared(place(jax.tree.unflatten(tree, arrays)), *model[1:])


def default_layout(model: Model) -> str:
    backend = jax.default_backend()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    return "onednn" if backend == "cpu" and size > CACHED and fits_onednn(model) else backend


def fits_onednn(model: Model) -> bool:
    return model.params["shared"].dtype == np.float32 and onednn.available()


def derive(params: Params, layout: str) -> Params:
    """bart_oneliner's parameter tree -> the weights that `transformer` reads.

    {"shared": (V,D), "head": (D,V) or absent, "final_logits_bias": (V,), "encoder" and "decoder": {"embed_positions",
    "layernorm_embedding", "layers": [{"qkv": (D,3D), "out": (D,D), "norm", "fc1", "fc2", "final_norm", and in the
    decoder "cross_q": (D,D), "cross_kv": (D,2D), "cross_out": (D,D), "cross_norm"}, …]}}; matrices with their biases,
    in the layout "onednn" as panels (onednn.pack). Task heads ("classification_head", "qa_outputs") stay as they are.
    numpy arrays give numpy arrays, and under jax.eval_shape shapes give shapes.
    """
    xp = params["shared"].__array_namespace__()
    matrix = onednn.pack if layout == "onednn" else lambda weight, *_: weight

    def fuse(*projections: Params) -> Params:
        weights = [p["weight"].swapaxes(0, 1).reshape(p["weight"].shape[1], -1) for p in projections]
        return {
            "weight": matrix(xp.concat(weights, axis=1), projections[0]["weight"].shape[2]),  # a panel is a head's
            "bias": xp.concat([p["bias"].reshape(-1) for p in projections]),
        }

    def merge(out_proj: Params) -> Params:
        return plain(out_proj["weight"].reshape(-1, out_proj["weight"].shape[-1]), out_proj["bias"])

    def plain(weight: Array, bias: Array) -> Params:
        return {"weight": matrix(weight), "bias": bias}

    def layer(p: Params) -> Params:
        own = p["self_attn"]
        derived = {
            "qkv": fuse(own["q_proj"], own["k_proj"], own["v_proj"]),
            "out": merge(own["out_proj"]),
            "norm": p["self_attn_layer_norm"],
            "fc1": plain(**p["fc1"]),
            "fc2": plain(**p["fc2"]),
            "final_norm": p["final_layer_norm"],
        }
        if cross := p.get("encoder_attn"):
            derived |= {
                "cross_q": fuse(cross["q_proj"]),
                "cross_kv": fuse(cross["k_proj"], cross["v_proj"]),
                "cross_out": merge(cross["out_proj"]),
                "cross_norm": p["encoder_attn_layer_norm"],
            }
        return derived

    def side(p: Params) -> Params:
        depth = p["layers"]["fc1"]["bias"].shape[0]
        layers = [layer(jax.tree.map(lambda stacked, i=i: stacked[i], p["layers"])) for i in range(depth)]
        return {**p, "layers": layers}

    head = {"head": matrix(params["shared"].T)} if layout in ("onednn", "cpu") else {}
    return {**params, **head, "encoder": side(params["encoder"]), "decoder": side(params["decoder"])}
