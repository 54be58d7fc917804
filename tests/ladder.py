"""The ladder: each part of a model is compared with PyTorch's module, for the inputs that the module had.

tests.twins.record keeps the input and the output of every module of PyTorch's model during a whole forward pass. Our
function, called with the same input and weights, must return the same output. So a failing test names the part that is
wrong, and errors of two parts cannot cancel. One such comparison is a rung.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tests.twins import assert_close

# Tolerances of one part and of a whole model, relative to the largest output. 2e-6 is 16 times float32's machine
# epsilon. In BART's ladder the largest difference is 6.3e-7 in one part, and 1.3e-6 through a whole model.
PART, WHOLE = 2e-6, 5e-6
WHOLES = ("encoder", "decoder")
MASKS = ("padded right", "padded left", "unpadded", "holes")


class Case(NamedTuple):
    """A twin, a batch, and all outputs that are compared."""

    twin: Any
    batch: dict[str, np.ndarray]
    ours: dict[str, np.ndarray]  # PyTorch's module name -> output of our function
    theirs: dict[str, np.ndarray]  # the same name -> output of the module


def masked(batch: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Gives a batch that is padded on the right masks of another kind, one of MASKS.

    "padded left" leaves the decoder's arrays as they are. With padding on the left, its first positions could attend
    to no position at all, a case that tests/model/test_isolation.py covers.
    """
    return {name: array_with(name, array, kind) for name, array in batch.items()}


def array_with(name: str, array: np.ndarray, kind: str) -> np.ndarray:
    is_mask, of_decoder = name.endswith("mask"), name.startswith("decoder")
    if kind == "padded left" and not of_decoder:
        return np.ascontiguousarray(array[:, ::-1])
    if kind == "unpadded" and is_mask:
        return np.ones_like(array)
    if kind == "holes" and is_mask:
        holes = np.random.default_rng(5).integers(0, 2, array.shape)
        return (holes | (np.arange(array.shape[1]) == 0)).astype(array.dtype)
    return array


def assert_rung(case: Case, name: str) -> None:
    """Our output equals that of PyTorch's module `name`."""
    assert_close(case.ours[name], case.theirs[name], WHOLE if name in WHOLES else PART, name)
