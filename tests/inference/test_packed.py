"""Sources that are packed into one row of the encoder are encoded as if each were alone, at any place in the row."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
import pytest
from bart_inference import load, prepare
from bart_inference.generation.generate import jit_prefill
from bart_inference.model import onednn
from bart_inference.model.transformer import Source, prefill_packed, unpack_source

from tests.twins import assert_close

S = 48  # source positions after unpacking
LAYOUTS = ["cpu", pytest.param("onednn", marks=pytest.mark.skipif(not onednn.available(), reason="no oneDNN here"))]
jit_packed = jax.jit(prefill_packed, static_argnames="config")
jit_unpack = jax.jit(unpack_source, static_argnames="S")


def source(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, 8000, length, dtype=np.int32)


def encoded(prepared, sources: Sequence[np.ndarray], which: int, L: int) -> Source:
    """Packs `sources` into the second of two rows of L positions; returns the encoded source number `which`."""
    ids, positions = np.zeros((2, 2, L), np.int32)
    used = sum(map(len, sources))
    ids[1, :used] = np.concatenate(sources)
    positions[1, :used] = np.concatenate([np.arange(len(one)) for one in sources])
    packed = jit_packed(prepared.weights, prepared.config, ids, positions)
    start = sum(map(len, sources[:which]))
    return jax.tree.map(np.asarray, jit_unpack(packed, ids, 1, start, len(sources[which]), S=S))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_source_is_encoded_as_alone(layout: str) -> None:
    prepared = prepare(load(), layout)
    sources = [source(length, length) for length in (7, 40, 1, 16)]
    for which, ids in enumerate(sources):
        ours = encoded(prepared, sources, which, 64)
        alone = np.full((1, S), -1, np.int32)
        alone[0, : len(ids)] = ids
        theirs = jit_prefill(prepared.weights, prepared.config, alone, alone >= 0)
        assert np.array_equal(ours.input_ids, alone) and np.array_equal(ours.mask, alone >= 0)
        for layer, (a, b) in enumerate(zip(ours.cross_kv, theirs.cross_kv, strict=True)):
            assert_close(a[0], b[0], 2e-5, f"source {which}, layer {layer}, keys", alone[0] >= 0)
            assert_close(a[1], b[1], 2e-5, f"source {which}, layer {layer}, values", (alone[0] >= 0)[:, None])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("L", [64, 96, 112, 128])
def test_neither_its_place_nor_its_neighbors_change_a_bit(layout: str, L: int) -> None:
    """The server packs several sources into rows of these lengths L, and of a shorter one."""
    prepared, ids = prepare(load(), layout), source(21, 0)
    first = encoded(prepared, [ids], 0, L)
    for before in sorted({0, 1, 3, 8, 17, 33, L // 2 - 10, L - 50, L - 21}):
        sources = [source(length, L + length) for length in (before // 3, before - before // 3) if length]
        length_after = min(15, L - 21 - before)
        after = [source(length_after, before)] if length_after else []
        packed = encoded(prepared, [*sources, ids, *after], len(sources), L)
        for layer, (a, b) in enumerate(zip(first.cross_kv, packed.cross_kv, strict=True)):
            for name, one, other in zip(("keys", "values"), a, b, strict=True):
                assert np.array_equal(one, other), f"layer {layer}: {name} differ {before} positions later"
