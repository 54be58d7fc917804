"""All tests run on the CPU in float32; what needs float64 asks for the fixture `x64`. See twins.py for the referee."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warns when a test starts a process

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    """JAX computes in float64 inside the test, as torch does when it is asked to."""
    with jax.enable_x64(True):
        yield
