"""Computes the log-probability of each token of a target that the caller sends."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from bart_inference.tasks.score import IGNORED, run_score

from bart_server.engine.device import DeviceModel, padded_sources
from bart_server.engine.shapes import Shapes
from bart_server.engine.store import Program, Shape, Store
from bart_server.engine.tasks.classify import HEAD
from bart_server.scheduling.contract import Bucket, Kind, Open, Request, best
from bart_server.scheduling.errors import InvalidArgument
from bart_server.scheduling.tasks import Score


class Scoring:
    """The task Score of one model. The values of its answers are log-probabilities, 0 where the label is -100."""

    def __init__(self, model: DeviceModel, shapes: Shapes, executables: Store) -> None:
        self._model = model
        self._executables = executables
        self.buckets = [make_bucket(source, shapes) for source in shapes.sources]

    @classmethod
    def of(cls, model: DeviceModel, shapes: Shapes, executables: Store) -> "Scoring | None":
        return None if HEAD in model.weights else cls(model, shapes, executables)

    def requests(self, task_input: Score, available: Open) -> list[Request]:
        source = tuple(task_input.source)
        labels = tuple(task_input.labels)
        self._check_labels(labels)
        buckets = tuple(bucket for bucket in self.buckets if bucket.source >= len(source))
        bucket = best(buckets, available) or buckets[0]
        return [Request(source, buckets, bucket.source + bucket.target, labels)]

    def shapes(self, bucket: Bucket, size: int, others: Sequence[int]) -> list[Shape]:
        program = Program(("score", bucket, size), partial(self._compile, bucket, size), uses_weights=True)
        return [Shape(bucket, size, [program], partial(self._warm_up, bucket, size))]

    def _compile(self, bucket: Bucket, size: int) -> Any:
        return self._model.compile_once(run_score, *self._arrays(bucket, size, []))

    def _warm_up(self, bucket: Bucket, size: int) -> None:
        end = self._model.config.eos_token_id
        [log_probs] = self.run(bucket, size, self.requests(Score([end] * bucket.source, [end] * bucket.target), {}))
        if np.isnan(log_probs).any():
            raise FloatingPointError(f"the model computes NaN in {bucket.name}: its weights are not finite")

    def oversized(self, bucket: Bucket, size: int, rows: int, requests: Sequence[Request]) -> int:
        return self._executables.oversized(bucket, size, rows, requests)

    def run(self, bucket: Bucket, size: int, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        program = self._executables["score", bucket, size]
        log_probs = np.asarray(program(*self._arrays(bucket, size, requests)))
        values: list[tuple[float, ...]] = []
        for row, request in enumerate(requests):
            labels = request.payload
            values.append(tuple(log_probs[row, : len(labels)].tolist()))
        return values

    def _arrays(self, bucket: Bucket, size: int, requests: Sequence[Request]) -> tuple[np.ndarray, ...]:
        """The arrays of a batch: token ids and mask (B,S), and labels (B,T), padded with -100."""
        ids, mask = padded_sources([request.source for request in requests], size, bucket.source)
        labels = np.full((size, bucket.target), IGNORED, np.int32)
        for row, request in enumerate(requests):
            labels[row, : len(request.payload)] = request.payload
        return ids, mask, labels

    def _check_labels(self, labels: Sequence[int]) -> None:
        limit, vocabulary = self.buckets[0].target, self._model.config.vocab_size
        if not 1 <= len(labels) <= limit:
            raise InvalidArgument("labels", f"{len(labels)} tokens, between 1 and {limit} fit")
        for label in labels:
            if label != IGNORED and not 0 <= label < vocabulary:
                description = f"holds {label}, which is neither between 0 and {vocabulary - 1} nor {IGNORED}"
                raise InvalidArgument("labels", description)


def make_bucket(source: int, shapes: Shapes) -> Bucket:
    """The shape bucket for sources of up to `source` tokens."""
    cost = source + shapes.target
    return Bucket(Kind.ONCE, Score, f"score-{source}", shapes.rows, cost, source, shapes.target)
