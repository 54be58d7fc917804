"""Shape buckets: arbitrary batch sizes and lengths go to few compiled programs. Our padding changes no token.

Imports no jax.
"""

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


def batch_bucket(n: int, devices: int = 1) -> int:
    """The smallest batch that holds n rows and gives every device a bucket of the same size."""
    return devices * bucket(-(-n // devices), BATCHES)


def largest_batch(devices: int = 1) -> int:
    """Rows of the largest batch that one program takes."""
    return devices * BATCHES[-1]


def source_bucket(n: int, limit: int) -> int:
    """Positions that sources of n tokens are padded to, for a position table of `limit`."""
    return bucket(n, LENGTHS, limit)


def target_bucket(n: int, limit: int) -> int:
    """Positions of the buffers in which n tokens are generated, for a position table of `limit`."""
    return bucket(n, TARGETS, limit)
