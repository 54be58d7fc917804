"""Random BERTs, RoBERTas and T5s of PyTorch, each with its twin in our format. As tests/twins.py does for BART.

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
    tiny: dict[str, Any]  # everything that could be confused differs
    inputs: tuple[str, ...]  # what forward takes


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
    config: Any  # of the family's page


def model(name: str, **fields: Any) -> PreTrainedModel:
    """A fresh model of PyTorch. transformers 5 ties T5's head whatever the config says; here the config is obeyed."""
    family = FAMILIES[name]
    fields = family.tiny | fields
    fresh = family.model(family.config(**fields))
    if fields.get("tie_word_embeddings") is False:
        untie(fresh)
    return fresh


def untie(model: PreTrainedModel) -> None:
    """Give the head a matrix of its own, drawn as T5's initialization says."""
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))


def of(name: str, model: PreTrainedModel) -> Twin:
    """The twin of a torch model that is already there: same weights, same dtype."""
    family = FAMILIES[name]
    config = family.page.Config.from_json(model.config.to_dict())
    params = family.page.convert(state_dict(model), config)
    return Twin(family, model.eval(), jax.tree.map(jnp.asarray, params), config)


def state_dict(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def twin(name: str, seed: int = 0, gain: float = 1.0, dtype: str = "float32", **fields: Any) -> Twin:
    """A random model of a family and its twin; dtype "float64" has the float32 model's weights exactly.

    T5's queries are smaller by the root of K, as its initialization has them: so scores are as large as BART's, and
    attention is not nearly hard, which would multiply rounding a hundredfold in wide models.
    """
    fresh = model(name, **fields)
    randomize(fresh, seed, gain)
    with torch.no_grad():
        for module in fresh.modules():
            if isinstance(module, modeling_t5.T5Attention):
                module.q.weight *= module.key_value_proj_dim**-0.5
    return of(name, fresh.to(getattr(torch, dtype)))


def batch(a: Twin, B: int = 3, S: int = 11, T: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ids, padded on the right; a row is full. BERT's labels are -100 but for a third of the real positions."""
    if a.family.inputs == BOTH_SIDES:
        return twins.batch(a.config, B, S, T, seed)
    rng = np.random.default_rng(seed)
    words = np.setdiff1d(np.arange(a.config.vocab_size), [a.config.pad_token_id])
    real = np.arange(S) < np.concatenate([[S], rng.integers(1, S + 1, B - 1)])[:, None]
    ids = np.where(real, rng.choice(words, (B, S)), a.config.pad_token_id)
    chosen = real & ((rng.random((B, S)) < 0.3) | (np.arange(S) == 0))
    # The padding's positions are in RoBERTa's look-up of types too, which must not be told from the others.
    types = rng.integers(0, a.config.type_vocab_size, (B, S))
    arrays = {"input_ids": ids, "attention_mask": real, "token_type_ids": types}
    labels = np.where(chosen, rng.choice(words, (B, S)), -100)
    return {name: array.astype(np.int32) for name, array in {**arrays, "labels": labels}.items()}


def tensors(x: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(x[name]).long() for name in names if name in x}


def logits(a: Twin, x: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(a.family.page.forward(a.params, a.config, **{n: x[n] for n in a.family.inputs if n in x}))


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
    """The model's own loss, and autograd."""
    a.torch.zero_grad()
    value = a.torch(**tensors(x, LOSS), **no_cache(a)).loss
    value.backward()
    gradients = {name: p.grad.numpy() for name, p in a.torch.named_parameters()}
    a.torch.zero_grad()  # sets the tensors free, the arrays stay
    return value.item(), flat(a.family.page.convert(gradients, a.config))


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """JAX computes in float64 inside, and so does PyTorch's T5.

    transformers' T5LayerNorm squares in float32 whatever the model's dtype is, which leaves 1e-8 of rounding in a
    float64 model. torch.nn.RMSNorm is the same formula, and takes its place here.
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
