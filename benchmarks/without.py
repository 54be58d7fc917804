"""Runs a module of the project with one of its fast paths switched off.

    python -m benchmarks.without NAME MODULE [ARGUMENT …]

Every fast path in VARIANTS is a special case that changes only speed. Without it, the code computes the same results in
its general way. `benchmarks.variants` measures what each gains.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

NEVER = 2**62  # a threshold that no size reaches


def replace(target: str, value: Any) -> Callable[[], Any]:
    """Returns a function that sets the attribute with the dotted name `target` until the process ends."""
    return lambda: mock.patch(target, value).start()


def fused_projections() -> None:
    """Computes queries, keys and values in one product and splits the result, instead of in three products."""
    from bart_inference.model import onednn

    # available() multiplies as many rows as the threshold and caches its answer, so it must run before the change.
    onednn.available()
    mock.patch.object(onednn, "MIN_POSITIONS_TO_HEADS", NEVER).start()


def query_by_onednn() -> None:
    """Computes the attention scores of a single query by oneDNN, for which bart_inference otherwise uses XLA."""
    from bart_inference.model import onednn

    mock.patch("bart_inference.model.attention.scores", onednn.scores).start()


def one_source_a_row() -> None:
    """Encodes every source by itself, in the shortest row that holds it, instead of several in one row."""
    from bart_server.engine.packing import EncoderBatch, EncoderShape, PackedSource

    def pack_sources(sources: Sequence[int], shapes: Sequence[EncoderShape], devices: int = 1) -> list[EncoderBatch]:
        lengths = sorted(length for count, length in shapes if count == 1)
        fitting = [next(length for length in lengths if length >= source) for source in sources]
        batches = []
        for index, length in enumerate(fitting):
            batches.append(EncoderBatch(EncoderShape(1, length), [[PackedSource(index, 0)]]))
        return batches

    mock.patch("bart_server.engine.packing.pack_sources", pack_sources).start()


VARIANTS: dict[str, Callable[[], Any]] = {
    "onednn": replace("bart_inference.model.onednn.available", lambda: False),
    "onednn-attention": replace("bart_inference.model.onednn.MIN_ATTENTION_MULTIPLY_ADDS", NEVER),
    "onednn-to-heads": fused_projections,
    "scores-by-source": replace("bart_inference.model.onednn.MIN_SCORES_BY_SOURCE", NEVER),
    "one-query-by-xla": query_by_onednn,
    "huge-pages": replace("bart_inference.devices.HUGE_PAGE", NEVER),
    "top-by-blocks": replace("bart_inference.generation.indexing.BLOCK_SCORES", NEVER),
    "packed-sources": one_source_a_row,
    "several-rows": replace("bart_server.engine.packing.MAX_ROWS", 1),
}


def main() -> None:
    name, module, *arguments = sys.argv[1:]
    VARIANTS[name]()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
