"""Keeps the served models by name, and implements bart.v1.ModelService, which describes them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bart_proto.v1 import bart_pb2 as pb

from bart_server.scheduling.contract import Engine
from bart_server.scheduling.errors import InvalidArgument, Unavailable, UnknownModel, WrongTask
from bart_server.scheduling.tasks import Classify, Generate, Score, Task, task_name
from bart_server.services.call import Call
from bart_server.services.limits import Limits
from bart_server.services.text import Text

RETRY_WHILE_LOADING = 2.0  # seconds that a caller is told to wait before another try
TASKS: dict[Task, pb.Task] = {
    Generate: pb.TASK_GENERATION,
    Classify: pb.TASK_CLASSIFICATION,
    Score: pb.TASK_SCORING,
}
# The calls of each task that need no tokenizer.
CALLS_BY_IDS: dict[Task, str] = {
    Generate: "Generate and StreamGenerate with token_ids",
    Score: "Score with token_ids and labels",
}


def served_by_ids(tasks: Sequence[Task]) -> str:
    """The calls that a model with these tasks can serve without a tokenizer, for messages."""
    return ", ".join(CALLS_BY_IDS[task] for task in tasks if task in CALLS_BY_IDS) or "nothing"


@dataclass(frozen=True)
class Served:
    """A served model. name: by which requests ask for it. text: its tokenizer; None if it takes token ids only."""

    name: str
    engine: Engine
    text: Text | None

    def require(self, task: Task) -> None:
        """Raises WrongTask if the model cannot do this task."""
        if task not in self.engine.description.tasks:
            tasks = ", ".join(map(task_name, self.engine.description.tasks))
            raise WrongTask(f"model {self.name!r} cannot {task_name(task)}; it can: {tasks}")

    def reader(self, field: str = "text") -> Text:
        """The tokenizer. Raises InvalidArgument, for the field that holds a text, if the model has none."""
        if self.text is None:
            usable = served_by_ids(self.engine.description.tasks)
            raise InvalidArgument(field, f"model {self.name!r} has no tokenizer; it can serve: {usable}")
        return self.text


class Models:
    """The served models; there are none while they are loaded. seconds_left: estimates how long loading still takes."""

    def __init__(self, seconds_left: Callable[[], float] = lambda: RETRY_WHILE_LOADING) -> None:
        self._seconds_left = seconds_left
        self._served: dict[str, Served] = {}

    def publish(self, served: Iterable[Served]) -> None:
        """Adds models, to which new calls go from now on.

        A model of the same name is replaced and its position kept.
        """
        self._served = self._served | {model.name: model for model in served}

    def check_loaded(self) -> None:
        """Raises Unavailable while the models are loaded."""
        if not self._served:
            seconds = self._seconds_left()
            raise Unavailable(f"the models are being loaded, which may take {seconds:.0f} s more", seconds)

    def all(self) -> list[Served]:
        """All models, in the order of the command line. Raises Unavailable while they are being loaded."""
        self.check_loaded()
        return list(self._served.values())

    def find(self, name: str) -> Served:
        """The model of that name, or the first if the name is empty.

        Raises UnknownModel, or Unavailable while loading.
        """
        served = self.all()
        if not name:
            return served[0]
        if name not in self._served:
            raise UnknownModel(name, list(self._served))
        return self._served[name]


class ModelService:
    """bart.v1.ModelService."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self._models = models
        self._limits = limits

    async def list_models(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[describe(served, self._limits) for served in self._models.all()])

    async def get_model(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=describe(self._models.find(request.name), self._limits))


def describe(served: Served, limits: Limits) -> pb.Model:
    """A model and its limits as a message."""
    description, buckets = served.engine.description, served.engine.buckets
    generating = [bucket for bucket in buckets if bucket.task is Generate]
    return pb.Model(
        name=served.name,
        revision=description.revision,
        tasks=[TASKS[task] for task in description.tasks],
        dtype=description.dtype,
        platform=description.platform,
        devices=description.devices,
        limits=pb.Limits(
            source_tokens=description.source_tokens,
            target_tokens=description.target_tokens,
            source_buckets=sorted({bucket.source for bucket in buckets}),
            beams=sorted({bucket.beams for bucket in generating if not bucket.sample}),
            sampling_beams=sorted({bucket.beams for bucket in generating if bucket.sample}),
            rows=max(bucket.sizes[-1] for bucket in buckets),
            text_bytes=limits.text_bytes,
            batch_items=limits.batch_items,
            labels=limits.labels,
            label_bytes=limits.label_bytes,
        ),
    )
