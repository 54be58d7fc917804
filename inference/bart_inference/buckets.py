"""Shape buckets: arbitrary batch sizes and lengths go to few compiled programs. Our padding changes no token."""

from __future__ import annotations

from collections.abc import Sequence

BATCHES = (1, 2, 4, 8, 16, 32, 64)  # sources in one program; a larger batch is run in pieces
LENGTHS = (16, 32, 64, 128, 256, 512, 1024)  # source positions
# Token buffers: every step pays for their whole length, and a model is mostly asked for one length, so they go in finer
# steps. 64 new tokens and the start token take 80 positions, not 128.
TARGETS = (*range(16, 129, 16), *range(160, 257, 32), *range(320, 513, 64), *range(640, 1025, 128))


def bucket(n: int, sizes: Sequence[int], limit: int | None = None) -> int:
    """The smallest size that holds n, or `limit` (a position table's length, say) where that is smaller still."""
    for size in sizes:
        if n <= size:
            return size if limit is None else min(size, limit)
    if limit is not None and n <= limit:
        return limit
    raise ValueError(f"{n} is beyond the largest bucket, {limit or sizes[-1]}")
