"""The tasks, one module each, with the task's shape buckets and programs, what a request costs, and how it runs.

A task's protobuf messages are read and written in `services`, which the engine does not import.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bart_server.engine.device import DeviceModel
from bart_server.engine.shapes import Shapes
from bart_server.engine.store import Shape, Store
from bart_server.engine.tasks.classify import Classification
from bart_server.engine.tasks.generate import Generation
from bart_server.engine.tasks.score import Scoring
from bart_server.scheduling.contract import Bucket, Open, Request
from bart_server.scheduling.tasks import Classify, Generate, Score, Task


class DeviceTask(Protocol):
    """A task of one model.

    It is also a contract.Once if its buckets have Kind.ONCE, and a contract.Decode otherwise.
    """

    @property
    def buckets(self) -> Sequence[Bucket]:
        """Every shape bucket of the task, open or not."""

    def requests(self, task_input: Any, available: Open) -> Sequence[Request]:
        """One request, or one for each of several samples of the source. available: the buckets that are open.

        Raises InvalidArgument with the field, the limit and the value.
        """

    def shapes(self, bucket: Bucket, size: int, others: Sequence[int]) -> Sequence[Shape]:
        """The shapes of one row count: the row count itself and its encoder shapes. The engine sets their priorities.

        others: the row counts that a state is resized from and to.
        """


# Each function makes the task for a model, or returns None if the checkpoint cannot do it.
TASKS: dict[Task, Callable[[DeviceModel, Shapes, Store], DeviceTask | None]] = {
    Generate: Generation.of,
    Classify: Classification.of,
    Score: Scoring.of,
}
