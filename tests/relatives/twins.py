"""Makes twins of BERT, RoBERTa and T5: random models of PyTorch, each with the same weights in our format.

a = twin("t5", d_kv=16)             # the fields of transformers' config, by default those of the family's `tiny`
x = batch(a, B=3, S=11)             # ids and masks, padded on the right, labels with -100
logits(a, x), torch_logits(a, x)    # two numpy arrays that should be equal
ours(a, x), theirs(a, x)            # two losses, each with the gradient of every parameter
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import bert_oneliner
import jax
import jax.numpy as jnp
import numpy as np
import t5_oneliner
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.t5 import modeling_t5

from bart_oneliner import Params
from tests import twins
from tests.gradients import Gradient
from tests.twins import flat, randomize


class Family(NamedTuple):
    page: ModuleType
    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    tiny: dict[str, Any]  # fields of its config for small models, in which no two sizes are equal
    inputs: tuple[str, ...]  # names of the arguments of `forward` that are arrays of token ids, types or masks


ENCODER = ("input_ids", "attention_mask", "token_type_ids")
BOTH_SIDES = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
TINY_BERT: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 48,
    "type_vocab_size": 3,
}
TINY_T5: dict[str, Any] = {
    "vocab_size": 99,
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 10,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
TINY_T5_V1_1 = TINY_T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
FAMILIES = {
    "bert": Family(bert_oneliner, BertConfig, BertForMaskedLM, TINY_BERT, ENCODER),
    "roberta": Family(bert_oneliner, RobertaConfig, RobertaForMaskedLM, TINY_BERT, ENCODER),
    "t5": Family(t5_oneliner, T5Config, T5ForConditionalGeneration, TINY_T5, BOTH_SIDES),
    "t5-v1.1": Family(t5_oneliner, T5Config, T5ForConditionalGeneration, TINY_T5_V1_1, BOTH_SIDES),
}


class Twin(NamedTuple):
    family: Family
    torch: PreTrainedModel  # in eval mode
    params: Params  # the same weights in our format
    config: Any  # a Config of the family's page


def model(name: str, **fields: Any) -> PreTrainedModel:
    """A PyTorch model with initial weights. transformers 5 ties the head of every T5; this unties it if it should."""
    family = FAMILIES[name]
    fields = family.tiny | fields
    fresh = family.model(family.config(**fields))
    if fields.get("tie_word_embeddings") is False:
        untie(fresh)
    return fresh


def untie(model: PreTrainedModel) -> None:
    """Gives the head a matrix of its own, drawn from N(0, 1) as in T5's initialization."""
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))


def of(name: str, model: PreTrainedModel) -> Twin:
    """A torch model together with its weights in our format, in the same dtype."""
    family = FAMILIES[name]
    config = family.page.Config.from_json(model.config.to_dict())
    params = family.page.convert(state_dict(model), config)
    return Twin(family, model.eval(), jax.tree.map(jnp.asarray, params), config)


def state_dict(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def twin(name: str, seed: int = 0, gain: float = 1.0, dtype: str = "float32", **fields: Any) -> Twin:
    """A random model of a family and its twin. With dtype "float64", weights are those of the float32 model, cast.

    T5's query weights are divided by √K, as in its initialization, so that scores are as large as BART's. Otherwise
    the softmax would nearly select one key, which makes rounding errors a hundred times larger in wide models.
    """
    fresh = model(name, **fields)
    randomize(fresh, seed, gain)
    with torch.no_grad():
        for module in fresh.modules():
            if isinstance(module, modeling_t5.T5Attention):
                module.q.weight *= module.key_value_proj_dim**-0.5
    return of(name, fresh.to(getattr(torch, dtype)))


def batch(a: Twin, B: int = 3, S: int = 11, T: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ids, padded on the right; the first row is full. About 30 % of BERT's tokens have a label, others -100."""
    if a.family.inputs == BOTH_SIDES:
        return twins.batch(a.config, B, S, T, seed)
    rng = np.random.default_rng(seed)
    words = np.setdiff1d(np.arange(a.config.vocab_size), [a.config.pad_token_id])
    real = np.arange(S) < np.concatenate([[S], rng.integers(1, S + 1, B - 1)])[:, None]
    ids = np.where(real, rng.choice(words, (B, S)), a.config.pad_token_id)
    masked = real & ((rng.random((B, S)) < 0.3) | (np.arange(S) == 0))
    types = rng.integers(0, a.config.type_vocab_size, (B, S))
    labels = np.where(masked, rng.choice(words, (B, S)), -100)
    arrays = {"input_ids": ids, "attention_mask": real, "token_type_ids": types, "labels": labels}
    return {name: array.astype(np.int32) for name, array in arrays.items()}


def tensors(x: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(x[name]).long() for name in names if name in x}


def logits(a: Twin, x: dict[str, np.ndarray]) -> np.ndarray:
    arrays = {name: x[name] for name in a.family.inputs if name in x}
    return np.asarray(a.family.page.forward(a.params, a.config, **arrays))


@torch.no_grad()
def torch_logits(a: Twin, x: dict[str, np.ndarray]) -> np.ndarray:
    return a.torch(**tensors(x, a.family.inputs), **no_cache(a)).logits.numpy()


def no_cache(a: Twin) -> dict[str, bool]:
    return {"use_cache": False} if a.family.inputs == BOTH_SIDES else {}


LOSS = ("input_ids", "attention_mask", "labels", "token_type_ids")


@functools.partial(jax.jit, static_argnames=("loss", "config"))
def value_and_grad(loss: Any, params: Params, config: Any, x: dict[str, jax.Array]) -> tuple[jax.Array, Params]:
    return jax.value_and_grad(loss)(params, config, **x)


def ours(a: Twin, x: dict[str, np.ndarray]) -> tuple[float, Gradient]:
    arrays = {name: jnp.asarray(x[name]) for name in LOSS if name in x}
    value, tree = value_and_grad(a.family.page.loss, a.params, a.config, arrays)
    return float(value), flat(tree)


def theirs(a: Twin, x: dict[str, np.ndarray]) -> tuple[float, Gradient]:
    """The loss of transformers' model, and its gradients by autograd."""
    a.torch.zero_grad()
    value = a.torch(**tensors(x, LOSS), **no_cache(a)).loss
    value.backward()
    gradients = {name: p.grad.numpy() for name, p in a.torch.named_parameters()}
    a.torch.zero_grad()  # sets p.grad to None; the numpy arrays keep the memory
    return value.item(), flat(a.family.page.convert(gradients, a.config))


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """JAX and PyTorch's T5 compute in float64 inside the with block.

    transformers' T5LayerNorm squares in float32, whatever the model's dtype is, which causes rounding errors of 1e-8 in
    a float64 model. It is replaced by torch's rms_norm, which has the same formula.
    """
    original = modeling_t5.T5LayerNorm.forward

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    with jax.enable_x64(True):
        modeling_t5.T5LayerNorm.forward = forward
        try:
            yield
        finally:
            modeling_t5.T5LayerNorm.forward = original
