"""Classify: the logits of contradiction and entailment, by a checkpoint that was trained on inference."""

from collections.abc import Sequence

import numpy as np
from bart_inference.tasks.classify import run_classifier
from bart_inference.tasks.zero_shot import entailment_id

from bart_server.engine.device import DeviceModel, padded_sources
from bart_server.engine.shapes import Shapes
from bart_server.engine.store import Program, Store
from bart_server.scheduling.contract import Bucket, Kind, Open, Request, best
from bart_server.scheduling.tasks import Classify

HEAD = "classification_head"


class Classification:
    """Values of a request: the logits (contradiction, entailment)."""

    def __init__(self, model: DeviceModel, shapes: Shapes, executables: Store) -> None:
        self._model = model
        self._executables = executables
        self._entailment = entailment_id(model.labels)
        self._contradiction = -1 if self._entailment == 0 else 0  # as Hugging Face's pipeline has it
        self.buckets = [
            Bucket(Kind.ONCE, Classify, f"classify-{source}", shapes.rows, cost(source), source)
            for source in shapes.sources
        ]

    @classmethod
    def of(cls, model: DeviceModel, shapes: Shapes, executables: Store) -> "Classification | None":
        return cls(model, shapes, executables) if HEAD in model.weights else None

    def requests(self, task_input: Classify, available: Open) -> list[Request]:
        source = tuple(task_input.source)
        buckets = tuple(bucket for bucket in self.buckets if bucket.source >= len(source))
        return [Request(source, buckets, cost((best(buckets, available) or buckets[0]).source))]

    def programs(self, bucket: Bucket, size: int, others: Sequence[int]) -> list[Program]:
        def compile() -> object:
            return self._model.compile_once(run_classifier, *self._arrays(bucket, size, []))

        return [Program(("classify", bucket, size), compile, long=True)]

    def warm_up(self, bucket: Bucket, size: int) -> None:
        source = [self._model.config.eos_token_id] * bucket.source
        self.run(bucket, size, self.requests(Classify(source), {}))

    def run(self, bucket: Bucket, size: int, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        program = self._executables["classify", bucket, size]
        logits = np.asarray(program(self._model.weights, *self._arrays(bucket, size, requests)), np.float32)
        pairs = logits[: len(requests), [self._contradiction, self._entailment]]
        return [tuple(pair) for pair in pairs.tolist()]

    def _arrays(self, bucket: Bucket, size: int, requests: Sequence[Request]) -> tuple[np.ndarray, ...]:
        """Ids and mask (B,S), and where each source's last end token is (B,1)."""
        ids, mask = padded_sources([request.source for request in requests], size, bucket.source)
        last = np.zeros((size, 1), np.int32)
        for row, request in enumerate(requests):
            ends = [i for i, token in enumerate(request.source) if token == self._model.config.eos_token_id]
            last[row] = ends[-1] if ends else len(request.source) - 1
        return ids, mask, last


def cost(source: int) -> int:
    """The decoder reads the source too."""
    return 2 * source
