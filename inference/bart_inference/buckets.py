"""Shape buckets: arbitrary batch sizes and lengths go to few compiled programs. Our padding changes no token."""

from __future__ import annotations

from collections.abc import Sequence

BATCHES = (1, 2, 4, 8, 16, 32, 64)  # sources in one program; a larger batch is run in pieces
LENGTHS = (16, 32, 64, 128, 256, 512, 1024)  # source positions and token buffers


def bucket(n: int, sizes: Sequence[int], limit: int | None = None) -> int:
    """The smallest size that holds n, or `limit` (a position table's length, say) where that is smaller still."""
    for size in sizes:
        if n <= size:
            return size if limit is None else min(size, limit)
    if limit is not None and n <= limit:
        return limit
    raise ValueError(f"{n} is beyond the largest bucket, {limit or sizes[-1]}")
