"""Makes the rows of a report: what was compared, the difference from PyTorch, and whether the tolerance holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from tests import gradients
from tests.gradients import Gradient

KEY_BIASES = "k_proj.bias"


class Row(NamedTuple):
    what: str
    difference: float
    tolerance: float
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance  # a difference of NaN does not hold

    def __str__(self) -> str:
        sign = "✅" if self.holds else "❌"
        return f"{sign} {self.what:<46} {self.difference:>10.1e} {self.tolerance:>10.0e}   {self.note}".rstrip()


def relative(ours: Any, theirs: Any) -> float:
    """The largest absolute difference, divided by PyTorch's largest absolute value."""
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def parameters(ours: dict[str, np.ndarray], model: torch.nn.Module) -> Row:
    """The number of tensors of which conversion to our format and back changes any bit."""
    theirs = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    wrong = [name for name in ours if name not in theirs or ours[name].tobytes() != theirs[name].tobytes()]
    return Row("parameters, converted and back", len(wrong), 0, ", ".join(wrong[:2]) or f"{len(ours)} tensors")


def float32_gradient(ours: Gradient, theirs: Gradient, truth: Gradient) -> Row:
    """Two distances from `truth`, PyTorch's float64 gradient: our float32 gradient's divided by PyTorch's float32's."""
    ratio = gradients.distance(ours, truth) / gradients.distance(theirs, truth)
    return Row("gradient, our distance / PyTorch's, float32", ratio, 2, f"whole norm {gradients.norm(truth):.3g}")


def float64(what: str, ours: tuple[float, Gradient], theirs: tuple[float, Gradient]) -> Iterator[Row]:
    """Compares a loss and its gradients in float64."""
    yield Row(f"{what}, float64", abs(ours[0] - theirs[0]) / theirs[0], 1e-12, f"{theirs[0]:.10f}")
    whole = gradients.norm(theirs[1])
    far = {name: float(np.linalg.norm(ours[1][name] - g)) / whole for name, g in theirs[1].items()}
    worst = max(far, key=far.__getitem__)
    yield Row("gradient, worst tensor / whole norm, float64", far[worst], 1e-9, f"{len(far)} tensors, {worst}")
    biases = {name: g for name, g in (*ours[1].items(), *theirs[1].items()) if name.endswith(KEY_BIASES)}
    if biases:
        note = "exactly 0 without rounding"  # a key bias adds one number to all scores of a query: softmax ignores it
        yield Row("gradient of the key biases, float64", gradients.norm(biases) / whole, 1e-12, note)
