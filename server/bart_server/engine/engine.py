"""BART on a device: one revision of a model, the tasks that it does, and the shape buckets in which it does them."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from bart_inference import Prepared

from bart_server.engine.device import DeviceModel
from bart_server.engine.shapes import Shapes, complete
from bart_server.engine.store import Shape, Store
from bart_server.engine.tasks import TASKS, DeviceTask
from bart_server.scheduling.contract import Bucket, Decode, Description, Once, Open, Request
from bart_server.scheduling.errors import InvalidArgument
from bart_server.scheduling.tasks import Input, Task

log = logging.getLogger(__name__)


def at_once(bucket: Bucket, size: int) -> int:
    """A priority for every row count of every bucket: all are compiled before the model is served."""
    return 0


class JaxEngine:
    """See contract.Engine. priority: of a bucket's row count, see store.Shape."""

    def __init__(
        self,
        prepared: Prepared,
        revision: str,
        shapes: Shapes,
        priority: Callable[[Bucket, int], int] = at_once,
    ) -> None:
        self._model = model = DeviceModel(prepared)
        self._config = model.config
        longest = model.default.lengths(1, self._config)[1]  # a checkpoint that asks for too much fails here
        shapes = complete(shapes, longest, self._config.max_position_embeddings)
        shapes = shapes._replace(rows=tuple(rows * model.devices for rows in shapes.rows))
        self.store = Store()
        self._tasks: dict[Task, DeviceTask] = {}
        for task, make in TASKS.items():
            device_task = make(model, shapes, self.store)
            if device_task is not None:
                self._tasks[task] = device_task
        self.buckets = [bucket for device_task in self._tasks.values() for bucket in device_task.buckets]
        for bucket in self.buckets:
            self.store.want(self._shapes(bucket, priority))
        self.description = Description(
            revision=revision,
            tasks=tuple(self._tasks),
            dtype=str(model.dtype),
            platform=jax.default_backend(),
            layout=model.layout,
            devices=model.devices,
            source_tokens=shapes.sources[-1],
            target_tokens=shapes.target,
        )

    @property
    def open(self) -> Open:
        return self.store.open

    def compile(self, stop: Callable[[], bool], behind: bool = False) -> None:
        began = time.perf_counter()
        self.store.compile(stop, behind)
        seconds = round(time.perf_counter() - began, 1)
        log.info("compiled", extra={"buckets": len(self.open), "behind": behind, "seconds": seconds})

    def requests(self, task_input: Input) -> Sequence[Request]:
        self._check_ids(task_input.source)
        return self._tasks[type(task_input)].requests(task_input, self.open)

    def work(self, bucket: Bucket) -> Once | Decode:
        work: Any = self._tasks[bucket.task]
        task: Once | Decode = work
        return task

    def _shapes(self, bucket: Bucket, priority: Callable[[Bucket, int], int]) -> list[Shape]:
        """The bucket's row counts in the order in which they are wanted; each can be resized to those before it."""
        task, shapes = self._tasks[bucket.task], []
        sizes = sorted(bucket.sizes, key=lambda size: (priority(bucket, size), size))
        for index, size in enumerate(sizes):
            programs = task.programs(bucket, size, sizes[:index])
            warm_up = partial(task.warm_up, bucket, size)
            shapes.append(Shape(bucket, size, programs, warm_up, priority(bucket, size)))
        return shapes

    def _check_ids(self, source: Sequence[int]) -> None:
        limit, vocabulary = self.description.source_tokens, self._config.vocab_size
        if not 1 <= len(source) <= limit:
            raise InvalidArgument("token_ids", f"{len(source)} tokens, between 1 and {limit} fit")
        if max(source) >= vocabulary:
            raise InvalidArgument("token_ids", f"holds {max(source)}, the vocabulary ends at {vocabulary - 1}")
