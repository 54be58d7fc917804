"""Every fast path can be switched off, and is measured in cells that exist."""

from __future__ import annotations

from unittest import mock

import pytest

from benchmarks.cells import CELLS
from benchmarks.variants import GENERATION, SERVING
from benchmarks.without import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_a_fast_path_can_be_switched_off(name: str) -> None:
    """mock.patch raises AttributeError if a name that it should replace does not exist."""
    try:
        VARIANTS[name]()
    finally:
        mock.patch.stopall()


def test_each_is_measured_in_cells_that_exist() -> None:
    assert {*GENERATION, *SERVING} == set(VARIANTS)
    names = {cell.name for cell in CELLS}
    assert all(set(cells) <= names for cells in GENERATION.values())


def test_without_packing_every_source_has_a_row() -> None:
    from bart_server.engine import packing

    shapes = packing.encoder_shapes(128, 8)
    try:
        VARIANTS["packed-sources"]()
        batches = packing.pack_sources([100, 7, 20], shapes)
    finally:
        mock.patch.stopall()
    assert [batch.rows for batch in batches] == [[[(0, 0)]], [[(1, 0)]], [[(2, 0)]]]
    assert all(batch.shape in shapes for batch in batches)
    assert len(packing.pack_sources([100, 7, 20], shapes)) == 1, "sources are still not packed after the variant ended"
