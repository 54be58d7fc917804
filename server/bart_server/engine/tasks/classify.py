"""Computes the logits of contradiction and entailment with a checkpoint trained on natural language inference."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from bart_inference.tasks.classify import run_classifier
from bart_inference.tasks.zero_shot import entailment_id

from bart_server.engine.device import DeviceModel, padded_sources
from bart_server.engine.shapes import Shapes
from bart_server.engine.store import Program, Shape, Store
from bart_server.scheduling.contract import Bucket, Kind, Open, Request, best
from bart_server.scheduling.tasks import Classify

HEAD = "classification_head"  # the key of the weights that only checkpoints for classification have


class Classification:
    """The task Classify of one model. The values of its answers are the logits (contradiction, entailment)."""

    def __init__(self, model: DeviceModel, shapes: Shapes, executables: Store) -> None:
        self._model = model
        self._executables = executables
        self._entailment = entailment_id(model.labels)
        # Hugging Face's zero-shot pipeline takes the first label for contradiction, or the last if the first is
        # entailment.
        self._contradiction = -1 if self._entailment == 0 else 0
        self.buckets = [make_bucket(source, shapes) for source in shapes.sources]

    @classmethod
    def of(cls, model: DeviceModel, shapes: Shapes, executables: Store) -> "Classification | None":
        return cls(model, shapes, executables) if HEAD in model.weights else None

    def requests(self, task_input: Classify, available: Open) -> list[Request]:
        source = tuple(task_input.source)
        buckets = tuple(bucket for bucket in self.buckets if bucket.source >= len(source))
        bucket = best(buckets, available) or buckets[0]
        return [Request(source, buckets, cost(bucket.source))]

    def shapes(self, bucket: Bucket, size: int, others: Sequence[int]) -> list[Shape]:
        program = Program(("classify", bucket, size), partial(self._compile, bucket, size), uses_weights=True)
        return [Shape(bucket, size, [program], partial(self._warm_up, bucket, size))]

    def _compile(self, bucket: Bucket, size: int) -> Any:
        return self._model.compile_once(run_classifier, *self._arrays(bucket, size, []))

    def _warm_up(self, bucket: Bucket, size: int) -> None:
        source = [self._model.config.eos_token_id] * bucket.source
        [logits] = self.run(bucket, size, self.requests(Classify(source), {}))
        if not np.isfinite(logits).all():
            raise FloatingPointError(f"the model computes NaN in {bucket.name}: its weights are not finite")

    def oversized(self, bucket: Bucket, size: int, rows: int, requests: Sequence[Request]) -> int:
        return self._executables.oversized(bucket, size, rows, requests)

    def run(self, bucket: Bucket, size: int, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        program = self._executables["classify", bucket, size]
        logits = np.asarray(program(*self._arrays(bucket, size, requests)), np.float32)
        pairs = logits[: len(requests), [self._contradiction, self._entailment]]
        return [tuple(pair) for pair in pairs.tolist()]

    def _arrays(self, bucket: Bucket, size: int, requests: Sequence[Request]) -> tuple[np.ndarray, ...]:
        """The arrays of a batch: token ids and mask (B,S), and the index of each source's last end token (B,1)."""
        ids, mask = padded_sources([request.source for request in requests], size, bucket.source)
        last = np.zeros((size, 1), np.int32)
        for row, request in enumerate(requests):
            last[row] = last_end(request.source, self._model.config.eos_token_id)
        return ids, mask, last


def make_bucket(source: int, shapes: Shapes) -> Bucket:
    """The shape bucket for sources of up to `source` tokens."""
    return Bucket(Kind.ONCE, Classify, f"classify-{source}", shapes.rows, cost(source), source)


def last_end(source: Sequence[int], end_token: int) -> int:
    """The index of the source's last end token, or of its last token if it has none."""
    for index in range(len(source) - 1, -1, -1):
        if source[index] == end_token:
            return index
    return len(source) - 1


def cost(source: int) -> int:
    """Padded tokens of a request: the encoder and the decoder both read the source."""
    return 2 * source
