"""Makes all tests run on the CPU in float32, and provides fixtures for float64 and for dropping compiled programs."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # jax reads it when it is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # otherwise tokenizers warns when a test starts a process

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

MEMORY_MAPS = Path("/proc/self/maps")  # one line for each memory map of this process; only Linux has the file
MOST_MEMORY_MAPS = 20_000


@pytest.fixture
def x64() -> Iterator[None]:
    """JAX computes in float64 during the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def without_programs() -> Iterator[None]:
    """Drops all compiled programs after the test."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps() -> Iterator[None]:
    """Drops all compiled programs after a test file if the process holds more than MOST_MEMORY_MAPS memory maps.

    Each program of XLA's CPU compiler holds several memory maps. Linux gives a process at most 65,530 of them
    (vm.max_map_count), and the compiler crashes when it cannot get another. One pytest worker can run most of the
    suite's files in one process.
    """
    yield
    if MEMORY_MAPS.exists() and MEMORY_MAPS.read_bytes().count(b"\n") > MOST_MEMORY_MAPS:
        jax.clear_caches()
