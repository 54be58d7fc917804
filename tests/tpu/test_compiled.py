"""Checks generation's programs as compiled for TPUs: `pip install -e '.[test,tpu-test]'`, then `pytest -m tpu`.

No TPU is needed, since no program is run. The model is bart-base with 8 sources on each chip; the programs are for one
v5e chip, a host of eight v5e chips, and one v6e chip.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import jax.numpy as jnp
import pytest

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the tpu-test extra"),
]

from benchmarks import counts  # noqa: E402
from benchmarks.tpu import CHIPS, COLLECTIVES, CONFIGS, Shape, copies, nbytes, state_of, traffic, weights_of  # noqa: E402
from benchmarks.tpu import compiled as compile_program  # noqa: E402

BASE = CONFIGS["bart-base"]
S, T, SOURCES = 512, 128, 8  # sources on each chip
MODES = {"speed": jnp.bfloat16, "parity": jnp.float32}
CASES = [("encode", 1), ("step", 1), ("step", 4), ("decode", 1), ("decode", 4)]
everywhere = pytest.mark.parametrize("chips", ["v5e-1", "v5e-8", "v6e-1"])
searches = pytest.mark.parametrize("N", [1, 4], ids=["greedy", "beams"])
programs = pytest.mark.parametrize(("program", "N"), CASES, ids=[f"{name}-{N}" for name, N in CASES])


def shape(chips: str, N: int) -> Shape:
    return Shape(SOURCES * int(chips.split("-")[1]), N, S, T)


@functools.cache
def compiled(program: str, chips: str, N: int, mode: str = "speed") -> Any:
    return compile_program(program, chips, BASE, MODES[mode], shape(chips, N))


def cache_bytes(N: int) -> int:
    """Bytes of the self-attention cache on one chip."""
    weights = weights_of(BASE, jnp.bfloat16)
    return nbytes(state_of(BASE, weights, Shape(SOURCES, N, S, T)).cache)


@everywhere
@programs
def test_it_fits_in_memory(chips: str, program: str, N: int) -> None:
    peak = compiled(program, chips, N).memory_analysis().peak_memory_in_bytes
    assert peak < 0.05 * CHIPS[chips[:3]].memory, f"the program needs {peak / 1e6:.0f} MB, more than 5 % of the memory"


@programs
def test_devices_exchange_nothing(program: str, N: int) -> None:
    text = compiled(program, "v5e-8", N).as_text()
    assert not [name for name in COLLECTIVES if f" {name}" in text]


@everywhere
@searches
def test_the_state_is_donated_and_not_padded(chips: str, N: int) -> None:
    weights = weights_of(BASE, jnp.bfloat16)
    state = nbytes(state_of(BASE, weights, Shape(SOURCES, N, S, T)))
    memory = compiled("decode", chips, N).memory_analysis()
    assert memory.argument_size_in_bytes < 1.02 * (nbytes(weights) + state)
    assert memory.alias_size_in_bytes > 0.98 * (memory.output_size_in_bytes)


@everywhere
@searches
def test_the_loop_copies_no_whole_cache(chips: str, N: int) -> None:
    program = compiled("decode", chips, N)
    one = SOURCES * N * T * BASE.d_model  # elements of a layer's keys
    assert copies(program, one) == []
    # Other temporary arrays take up to the size of one cache, so a copy of the cache would exceed this limit.
    temporary = program.memory_analysis().temp_size_in_bytes
    assert temporary < 1.3 * cache_bytes(N), f"temporary arrays take {temporary / cache_bytes(N):.2f} times the cache"


@everywhere
@pytest.mark.parametrize(("program", "N"), CASES[:3])
def test_operations_are_within_a_fifth_of_those_counted(chips: str, program: str, N: int) -> None:
    flops = compiled(program, chips, N).cost_analysis()["flops"]  # of one chip
    fields = vars(BASE)
    counted = (
        counts.prefill_flops(fields, SOURCES, S) if program == "encode" else counts.step_flops(fields, SOURCES, N, S, T)
    )
    assert 0.99 < flops / counted < 1.2


@everywhere
@pytest.mark.parametrize(("N", "limit"), [(1, 1.6), (4, 1.8)], ids=["greedy", "beams"])
def test_a_step_moves_few_more_bytes_than_it_must(chips: str, N: int, limit: float) -> None:
    """A step must read its weights and caches once. Beyond that it writes to the cache, and reads and writes logits."""
    minimum = counts.step_bytes(vars(BASE), SOURCES, N, S, T) / 2  # step_bytes is for float32, this mode has bfloat16
    assert 1 <= traffic(compiled("step", chips, N)) / minimum < limit


@pytest.mark.parametrize("chips", ["v5e-1", "v6e-1"])
def test_parity_mode_multiplies_in_float32_at_highest_precision(chips: str) -> None:
    lines = compiled("step", chips, 4, "parity").as_text().splitlines()
    products = [line for line in lines if " convolution(" in line or " dot(" in line]
    assert len(products) > 6 * BASE.decoder_layers
    assert [line for line in products if "operand_precision={highest,highest}" not in line] == []


def test_a_program_beyond_the_memory_is_refused() -> None:
    with pytest.raises(Exception, match="RESOURCE_EXHAUSTED"):
        compile_program("step", "v5e-1", BASE, jnp.float32, Shape(512, 4, 1024, 1024))
