"""Shape buckets: batches and lengths are padded to a few sizes, so that a few compiled programs serve all of them.

Padding is masked and changes no token. Imports no jax.
"""

from __future__ import annotations

from collections.abc import Sequence

BATCHES = (1, 2, 4, 8, 16, 32, 64)  # rows that one device runs at once; a larger batch is run in several parts
LENGTHS = (16, 32, 64, 128, 256, 512, 1024)  # source positions
# Positions of the buffer of generated tokens. Every decoding step computes over the whole buffer, so these sizes lie
# closer together: 64 new tokens and the start token take 80 positions instead of 128. That costs few programs, because
# most callers of a model ask for the same length.
TARGETS = (*range(16, 129, 16), *range(160, 257, 32), *range(320, 513, 64), *range(640, 1025, 128))


def bucket(n: int, sizes: Sequence[int], limit: int | None = None) -> int:
    """The smallest of the sizes that holds n, or `limit` (the length of a position table) if that is smaller."""
    for size in sizes:
        if n <= size:
            return size if limit is None else min(size, limit)
    if limit is not None and n <= limit:
        return limit
    raise ValueError(f"{n} is beyond the largest bucket, {limit or sizes[-1]}")


def batch_bucket(n: int, devices: int = 1) -> int:
    """The smallest batch size that holds n rows, where each device has an equal share, which is one of BATCHES."""
    return devices * bucket(-(-n // devices), BATCHES)


def largest_batch(devices: int = 1) -> int:
    """The number of rows of the largest batch that one program takes."""
    return devices * BATCHES[-1]


def source_bucket(n: int, limit: int) -> int:
    """The number of positions that sources of n tokens are padded to. limit: the length of the position table."""
    return bucket(n, LENGTHS, limit)


def target_bucket(n: int, limit: int) -> int:
    """The number of positions of a buffer for n generated tokens. limit: the length of the position table."""
    return bucket(n, TARGETS, limit)
