"""Makes twins: random BART models of PyTorch, each with the same weights in our format, which tests then compare.

    a = twin(d_model=32, scale_embedding=True)      # BartConfig's fields, by default those of TINY
    x = batch(a.config, B=3, S=11, T=7)             # ids and masks, padded on the right, labels with -100
    logits(a, x), torch_logits(a, x)                # two numpy arrays that should be equal

Biases, norms, the padding row and final_logits_bias are random too, and matrices are large enough that attention is far
from uniform, so that a wrong sign, axis or offset anywhere changes the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from bart_inference import Model
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedModel

from bart_oneliner import Config, Params, convert, forward

# Depths, head counts and widths are all different, so that one cannot be mistaken for another.
TINY: dict[str, Any] = {
    "vocab_size": 99,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 36,
    "max_position_embeddings": 48,
}
LARGE: dict[str, Any] = {name: getattr(BartConfig(), name) for name in TINY}  # BartConfig's own defaults
BASE: dict[str, Any] = LARGE | {
    "d_model": 768,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
}


class Twin(NamedTuple):
    torch: PreTrainedModel  # in eval mode
    params: Params  # the same weights in our format
    config: Config

    @property
    def model(self) -> Model:
        """The Model that bart_inference's functions take, with the torch model's generation options."""
        return Model(self.params, self.config, self.torch.generation_config.to_diff_dict(), None)


def randomize(model: torch.nn.Module, seed: int = 0, gain: float = 1.0) -> None:
    """Random values in every parameter and buffer; matrices preserve the variance of their input times `gain`²."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            if not weight.is_floating_point():  # BERT's position_ids
                continue
            noise = torch.randn(weight.shape, generator=generator)  # drawn in float32 whatever the model's dtype
            if "norm" in name.lower() and name.endswith("weight"):
                noise = 1 + 0.2 * noise
            elif name.endswith("bias"):
                noise *= 0.3
            elif "embed" in name or "shared" in name:
                noise *= 0.5
            else:
                noise *= gain * weight.shape[1] ** -0.5
            weight.copy_(noise)


def of(model: PreTrainedModel) -> Twin:
    """A torch model together with its weights in our format, in the same dtype."""
    config = Config.from_json(model.config.to_dict())
    params = convert({name: tensor.numpy() for name, tensor in model.state_dict().items()}, config)
    arrays = jax.tree.map(jnp.asarray, params)
    return Twin(model.eval(), arrays, config)


def flat(tree: Params) -> dict[str, np.ndarray]:
    """Flattens a nested dict of arrays; the names of a path are joined by dots."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in pairs}


def twin(seed: int = 0, gain: float = 1.0, dtype: str = "float32", **fields: Any) -> Twin:
    """A random BartForConditionalGeneration and its twin. `fields` of BartConfig replace those of TINY.

    With dtype "float64", the weights are those of the float32 model, cast to float64. It needs the fixture x64.
    """
    model = BartForConditionalGeneration(BartConfig(**{**TINY, **fields}))
    randomize(model, seed, gain)
    return of(model.to(getattr(torch, dtype)))


def batch(config: Config, B: int = 3, S: int = 11, T: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ids without special tokens; the first row is full, the others are padded on the right.

    decoder_input_ids are random, start token first; labels end in -100 where decoder_attention_mask ends.
    """
    rng = np.random.default_rng(seed)
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    special = [getattr(config, name) for name in names if hasattr(config, name)]  # T5 has no bos_token_id
    words = np.setdiff1d(np.arange(config.vocab_size), special)

    def side(length: int) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.concatenate([[length], rng.integers(1, length + 1, B - 1)])
        return rng.choice(words, (B, length)), np.arange(length) < lengths[:, None]

    (source, source_mask), (target, target_mask) = side(S), side(T)
    start = np.full((B, 1), config.decoder_start_token_id)
    return {
        "input_ids": np.where(source_mask, source, config.pad_token_id).astype(np.int32),
        "attention_mask": source_mask.astype(np.int32),
        "decoder_input_ids": np.concatenate([start, target[:, :-1]], 1).astype(np.int32),
        "decoder_attention_mask": target_mask.astype(np.int32),
        "labels": np.where(target_mask, target, -100).astype(np.int32),
    }


FORWARD = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")


def logits(twin: Twin, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Our logits for a batch, without its labels."""
    arrays = {name: batch[name] for name in FORWARD if name in batch}
    return np.asarray(forward(twin.params, twin.config, **arrays))


@torch.no_grad()
def torch_logits(twin: Twin, batch: dict[str, np.ndarray]) -> np.ndarray:
    """PyTorch's logits for a batch, without its labels."""
    tensors = {name: torch.tensor(batch[name]).long() for name in FORWARD if name in batch}
    return twin.torch(**tensors, use_cache=False).logits.numpy()


def record(model: torch.nn.Module, run: Callable[[], Any]) -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """Calls `run`, which runs the model: module name -> its inputs (hidden states, without masks) and its output."""
    recorded = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            if torch.is_tensor(output):
                named = [kwargs.get(k) for k in ("hidden_states", "key_value_states", "encoder_hidden_states")]
                tensors = [t.numpy() for t in (*args, *named) if torch.is_tensor(t) and t.ndim == 3]
                recorded[name] = tensors, output.numpy()

        return hook

    handles = [m.register_forward_hook(keep(n), with_kwargs=True) for n, m in model.named_modules()]
    run()
    for handle in handles:
        handle.remove()
    return recorded


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-5, what: str = "", where: Any = None) -> None:
    """The largest difference is at most tolerance × PyTorch's largest absolute value, or × 1 if that is smaller than 1.

    Only entries where `where` is true are compared.
    """
    a, b = np.asarray(ours), np.asarray(theirs)
    assert a.shape == b.shape, f"{what}: our shape is {a.shape}, PyTorch's {b.shape}"
    difference = np.abs(a - b)
    if where is not None:
        difference = np.where(np.broadcast_to(where, a.shape), difference, 0)
    scale = max(1.0, float(np.abs(b).max(initial=0)))
    at = np.unravel_index(np.argmax(difference), a.shape) if a.size else ()
    worst = float(difference[at]) if a.size else 0.0
    detail = f"{what}: differs by {worst:.2e} at {tuple(map(int, at))} (allowed {tolerance:.0e} × {scale:.3g})"
    assert worst <= tolerance * scale, f"{detail}: ours {a[at]}, PyTorch's {b[at]}"  # NaN fails too
