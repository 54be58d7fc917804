"""The ladder: each part of a model is compared with PyTorch's module, given the inputs that the module had.

Every module of PyTorch's model records its input and its output during a whole forward pass (tests.twins.record). The
same input through our function, with the same weights, must give the same output. So a failing test names the part that
is wrong, and errors cannot cancel. One such comparison is a rung.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tests.twins import assert_close

# Relative to the largest output (assert_close). 2e-6 is 16 spacings of float32. In BART's ladder the largest difference
# is 6.3e-7 in one part, and 1.3e-6 through a whole model.
PART, WHOLE = 2e-6, 5e-6
WHOLES = ("encoder", "decoder")
MASKS = ("padded right", "padded left", "unpadded", "holes")


class Case(NamedTuple):
    """A twin and a batch, and by PyTorch's module names: the outputs of our functions and of the modules."""

    twin: Any
    batch: dict[str, np.ndarray]
    ours: dict[str, np.ndarray]
    theirs: dict[str, np.ndarray]


def masked(batch: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """A batch that is padded on the right, with masks of another kind, one of MASKS.

    The decoder's arrays stay as they are for "padded left": otherwise its first positions might see nothing, a case
    that tests/model/test_isolation.py covers.
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
    """One part of ours equals PyTorch's module of that name."""
    assert_close(case.ours[name], case.theirs[name], WHOLE if name in WHOLES else PART, name)
