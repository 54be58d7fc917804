"""Records of the corpus, and batches of token ids. B batch, S source length, T target length.

A batch is a pure function of (seed, step), so a resumed run goes on with the batches that it would have had.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from bart_inference.tokenization import truncate

IGNORED = -100  # the label at padding, which the loss does not count, as in transformers
Pair = tuple[list[int], list[int]]  # source ids, target ids
Make = Callable[[np.ndarray, int, np.random.Generator], list[Pair]]  # (indices, limit, rng) -> the pairs of a batch


class Batch(NamedTuple):
    """The arrays of a training step, int32."""

    input_ids: np.ndarray  # (B,S)
    attention_mask: np.ndarray  # (B,S)
    labels: np.ndarray  # (B,T)


def read_records(path: Path) -> list[dict[str, str]]:
    """The records of a split: package, source, document, summary."""
    with gzip.open(path, "rt", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def round_up(length: int, buckets: list[int]) -> int:
    """The smallest bucket that holds `length`, else the largest. Few lengths make few shapes to compile for."""
    for bucket in buckets:
        if length <= bucket:
            return bucket
    return buckets[-1]


def collate(pairs: list[Pair], source_buckets: list[int], target_buckets: list[int], pad: int) -> Batch:
    """Pairs padded, or cut, to the bucket of the longest source and of the longest target."""
    S = round_up(max(len(source) for source, _ in pairs), source_buckets)
    T = round_up(max(len(target) for _, target in pairs), target_buckets)
    input_ids = np.full((len(pairs), S), pad, np.int32)
    labels = np.full((len(pairs), T), IGNORED, np.int32)
    for row, (source, target) in enumerate(pairs):
        source, target = truncate(source, S), truncate(target, T)
        input_ids[row, : len(source)] = source
        labels[row, : len(target)] = target
    return Batch(input_ids, (input_ids != pad).astype(np.int32), labels)


class Batches:
    """Endless seeded epochs of batches of similar length.

    An epoch's examples are shuffled, then sorted by source bucket and target length within windows of `window` batches;
    then the batches are shuffled. For each batch a source length is drawn from `limits` (length: share), to which its
    sources are cut. So most steps are short, and yet every position is trained. lengths: of source and target of each
    example, in tokens.
    """

    window = 32

    def __init__(
        self, lengths: list[tuple[int, int]], make: Make, batch_size: int, limits: dict[int, float],
        target_buckets: list[int], pad: int, seed: int,
    ) -> None:  # fmt: skip
        self.make, self.batch_size, self.pad, self.seed = make, batch_size, pad, seed
        self.limits = list(limits)
        self.shares = np.array(list(limits.values())) / sum(limits.values())
        self.source_buckets, self.target_buckets = sorted(limits), target_buckets
        sort_keys = [(round_up(source, self.source_buckets), target) for source, target in lengths]
        self.sort_keys = np.array(sort_keys, "i4,i4")
        self.epoch = -1
        self.order: list[np.ndarray] = []  # the batches of that epoch

    def indices(self, step: int) -> np.ndarray:
        """The examples of a step's batch (B,)."""
        epoch, i = divmod(step, len(self.sort_keys) // self.batch_size)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self.batches_of(epoch)
        return self.order[i]

    def batches_of(self, epoch: int) -> list[np.ndarray]:
        """An epoch's batches in order; examples that do not fill a batch are left out."""
        rng = np.random.default_rng((self.seed, epoch))
        shuffled = rng.permutation(len(self.sort_keys))
        batches = []
        for window in in_groups(shuffled, self.window * self.batch_size):
            ordered = window[np.argsort(self.sort_keys[window], kind="stable")]
            batches += in_groups(ordered, self.batch_size)
        full = [batch for batch in batches if len(batch) == self.batch_size]
        return [full[j] for j in rng.permutation(len(full))]

    def __call__(self, step: int) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng((self.seed, step, 1))
        limit = int(rng.choice(self.limits, p=self.shares))
        pairs = self.make(self.indices(step), limit, rng)
        source_buckets = [bucket for bucket in self.source_buckets if bucket <= limit]
        return collate(pairs, source_buckets, self.target_buckets, self.pad)


def in_groups(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive groups of `size` indices; the last one may be smaller."""
    return [indices[first : first + size] for first in range(0, len(indices), size)]
