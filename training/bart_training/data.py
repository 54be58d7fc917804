"""Records, token ids and batches. A batch is a pure function of (seed, step): a resumed run sees what it would have.

B batch, S source length, T target length.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from bart_inference.tokenization import truncate

IGNORED = -100  # labels that do not count, as in transformers
Pair = tuple[list[int], list[int]]  # source ids, target ids
Make = Callable[[np.ndarray, int, np.random.Generator], list[Pair]]  # (indices, limit, rng) -> the pairs of a batch


class Batch(NamedTuple):
    input_ids: np.ndarray  # (B,S)
    attention_mask: np.ndarray  # (B,S)
    labels: np.ndarray  # (B,T)


def read_records(path: Path) -> list[dict[str, str]]:
    """The records of a split: package, source, document, summary."""
    with gzip.open(path, "rt", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def round_up(length: int, buckets: list[int]) -> int:
    """The smallest bucket that holds `length`, else the largest: few shapes, few compilations."""
    return next((b for b in buckets if length <= b), buckets[-1])


def collate(pairs: list[Pair], source_buckets: list[int], target_buckets: list[int], pad: int) -> Batch:
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

    Each epoch is shuffled, then sorted by source bucket and target length (the two `lengths` of an example) within
    windows of `window` batches, then the batches are shuffled. For each batch one of `limits` is drawn (limit: share),
    to which its sources are cut: most steps stay short, yet every position is trained.
    """

    window = 32

    def __init__(
        self, lengths: list[tuple[int, int]], make: Make, batch_size: int, limits: dict[int, float],
        target_buckets: list[int], pad: int, seed: int,
    ) -> None:  # fmt: skip
        self.make, self.batch_size, self.pad, self.seed = make, batch_size, pad, seed
        self.limits, self.shares = list(limits), np.array(list(limits.values())) / sum(limits.values())
        self.source_buckets, self.target_buckets = sorted(limits), target_buckets
        rounded = [(round_up(source, self.source_buckets), target) for source, target in lengths]
        self.similar = np.array(rounded, "i4,i4")  # what a window is sorted by
        self.epoch = -1
        self.order: list[np.ndarray] = []  # the batches of that epoch

    def indices(self, step: int) -> np.ndarray:
        epoch, i = divmod(step, len(self.similar) // self.batch_size)
        if epoch != self.epoch:
            rng = np.random.default_rng((self.seed, epoch))
            shuffled = rng.permutation(len(self.similar))
            chunks = [shuffled[j : j + n] for n in [self.window * self.batch_size] for j in range(0, len(shuffled), n)]
            ordered = np.concatenate([c[np.argsort(self.similar[c], kind="stable")] for c in chunks])
            batches = [ordered[j : j + self.batch_size] for j in range(0, len(ordered), self.batch_size)]
            full = [b for b in batches if len(b) == self.batch_size]
            self.epoch, self.order = epoch, [full[j] for j in rng.permutation(len(full))]
        return self.order[i]

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step, 1))
        limit = int(rng.choice(self.limits, p=self.shares))
        pairs = self.make(self.indices(step), limit, rng)
        return collate(pairs, [b for b in self.source_buckets if b <= limit], self.target_buckets, self.pad)
