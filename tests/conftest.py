"""All tests run on the CPU in float32; tests in float64 use the fixture `x64`."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # otherwise tokenizers warns when a test starts a process

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    """JAX computes in float64 during the test."""
    with jax.enable_x64(True):
        yield
