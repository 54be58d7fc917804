"""Computes and compares the loss and the gradient of every parameter, ours and PyTorch's, for a twin and a batch."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch

from bart_oneliner import convert, loss
from tests.twins import Twin, flat

Gradient = dict[str, np.ndarray]  # path in our parameter tree -> gradient

value_and_grad = jax.jit(jax.value_and_grad(loss), static_argnames="config")


def ours(a: Twin, x: dict[str, np.ndarray], smoothing: float = 0.0) -> tuple[float, Gradient]:
    value, tree = value_and_grad(a.params, a.config, x["input_ids"], x["attention_mask"], x["labels"], smoothing)
    return float(value), flat(tree)


def theirs(a: Twin, x: dict[str, np.ndarray], smoothing: float = 0.0) -> tuple[float, Gradient]:
    """PyTorch's loss, with label smoothing if it is not 0, and its gradients by autograd."""
    a.torch.zero_grad()
    x = {name: torch.tensor(array).long() for name, array in x.items()}
    if smoothing:
        inputs = {name: x[name] for name in ("input_ids", "attention_mask")}
        decoder_input_ids = a.torch.prepare_decoder_input_ids_from_labels(x["labels"])
        scores = a.torch(**inputs, decoder_input_ids=decoder_input_ids, use_cache=False).logits
        entropy = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, ignore_index=-100)
        value = entropy(scores.flatten(0, 1), x["labels"].flatten())
    else:
        inputs = {name: x[name] for name in ("input_ids", "attention_mask", "labels")}
        value = a.torch(**inputs, use_cache=False).loss
    value.backward()
    gradients = {name: p.grad.numpy() for name, p in a.torch.named_parameters()}
    a.torch.zero_grad()  # sets p.grad to None; the numpy arrays keep the memory
    return value.item(), flat(convert(gradients, a.config))  # final_logits_bias, a buffer in PyTorch, gets zeros


def norm(gradient: Gradient) -> float:
    return float(np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in gradient.values())))


def distance(a: Gradient, b: Gradient) -> float:
    assert a.keys() == b.keys()
    return norm({name: a[name] - b[name] for name in a})


def assert_equal(ours: tuple[float, Gradient], theirs: tuple[float, Gradient]) -> None:
    """For float64: losses differ by at most 1e-12, each tensor's gradient by at most 1e-9 of the whole norm."""
    assert ours[0] == pytest.approx(theirs[0], rel=1e-12), "the losses differ"
    allowed = 1e-9 * norm(theirs[1])
    for name, gradient in theirs[1].items():
        difference = np.linalg.norm(ours[1][name] - gradient)
        assert difference <= allowed, f"{name}: gradients differ by {difference:.1e}, allowed {allowed:.1e}"
