"""The types that the scheduler, the engines and the services exchange. Imports neither jax nor grpc."""

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bart_server.scheduling.tasks import Input, Task


class Kind(enum.Enum):
    """How a request runs on the device."""

    ONCE = "once"  # in one call with the others of its batch
    DECODE = "decode"  # as a row of a running batch, a chunk of steps at a time


@dataclass(frozen=True, eq=False)
class Bucket:
    """A shape bucket: one family of compiled shapes, which differ in their row count. Its requests can share a batch.

    name: in metrics and messages, such as "beams4-128". sizes: the row counts that are wanted, ascending; a row is one
    source with all of its beams. cost: that of the most expensive request that fits. source: the length in tokens that
    sources are padded to. target: the most tokens of an answer, start token included; 0 for a task that generates none.
    Two buckets are equal only if they are the same object.
    """

    kind: Kind
    task: Task
    name: str
    sizes: tuple[int, ...]
    cost: int
    source: int
    target: int = 0
    beams: int = 1
    sample: bool = False


Open = Mapping[Bucket, tuple[int, ...]]  # the row counts of each open bucket that are open, ascending


def best(buckets: Iterable[Bucket], available: Open) -> Bucket | None:
    """The first of the buckets that is open, None if none is."""
    return next((bucket for bucket in buckets if bucket in available), None)


@dataclass(frozen=True)
class Request:
    """One row's work, checked by `Engine.requests`.

    source: token ids, special tokens included. buckets: all that can hold it, the best first. payload: what the task
    made of the rest of its input, opaque to others. cost: estimated padded tokens x beams. stream: whether the caller
    wants tokens before the end.
    """

    source: tuple[int, ...]
    buckets: tuple[Bucket, ...]
    cost: int
    payload: Any = None
    stream: bool = False


@dataclass(frozen=True)
class Hypothesis:
    """A generated sequence. tokens: without the start, with the end token. stopped: by the model, not the limit."""

    tokens: tuple[int, ...]
    score: float
    stopped: bool


@dataclass(frozen=True)
class Delta:
    """The next tokens of a stream, which no later step changes."""

    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Finish:
    """The answer: hypotheses, best first, from work of the kind DECODE, values from work of the kind ONCE.

    queued: seconds from arrival to the encoder. computed: seconds from the encoder to the answer.
    """

    hypotheses: tuple[Hypothesis, ...]
    values: tuple[float, ...]
    queued: float
    computed: float


@dataclass(frozen=True)
class Failure:
    """The request gets no answer; `error` says why."""

    error: Exception


Event = Delta | Finish | Failure
Deliver = Callable[[Event], None]  # takes the events of one request


@dataclass(frozen=True)
class Description:
    """What an engine serves.

    revision: a digest of the weights. layout: the arrangement of the weights on the device, in words. source_tokens:
    the most tokens of a source. target_tokens: the most tokens of an answer, start token included.
    """

    revision: str
    tasks: tuple[Task, ...]
    dtype: str
    platform: str
    layout: str
    devices: int
    source_tokens: int
    target_tokens: int


@dataclass(frozen=True)
class Progress:
    """How far compilation is: programs that exist, and those that exist or are wanted."""

    compiled: int
    wanted: int


class Work(Protocol):
    """What the scheduler calls in a task of either kind."""

    def oversized(self, bucket: Bucket, size: int, rows: int, requests: Sequence[Request]) -> int:
        """How many of the requests run on a larger program than the best one, because that is not compiled yet.

        Has the programs compiled next that most requests would have used. size: the row count that the requests run in.
        rows: the rows in use, including theirs.
        """


class Once(Work, Protocol):
    """A task of the kind ONCE."""

    def run(self, bucket: Bucket, size: int, requests: Sequence[Request]) -> Sequence[tuple[float, ...]]:
        """The values of each request, of which there are at most `size`. The task defines their number and meaning."""


class Decode(Work, Protocol):
    """A task of the kind DECODE. A state is opaque; a row is an index into it, and holds a request or is free.

    After a method has raised, the state that it was given must not be used again.
    """

    def init(self, bucket: Bucket, size: int) -> Any:
        """A state of `size` free rows."""

    def encode(self, bucket: Bucket, size: int, requests: Sequence[Request]) -> Any:
        """Runs the encoder on up to `size` sources; the result is for `insert` into a state of `size` rows."""

    def insert(self, bucket: Bucket, state: Any, encoded: Any, rows: Sequence[int]) -> Any:
        """Puts the requests of a call of `encode`, in order, into free rows of a state. Their first step is next."""

    def step(self, bucket: Bucket, state: Any, steps: int) -> tuple[Any, Sequence[int]]:
        """Decodes up to `steps` steps in every live row; returns the state and the rows that are finished."""

    def prefix(self, bucket: Bucket, state: Any, rows: Sequence[int]) -> Sequence[tuple[int, ...]]:
        """The generated tokens of each row that no further step can change."""

    def results(self, bucket: Bucket, state: Any, rows: Sequence[int]) -> Sequence[tuple[Hypothesis, ...]]:
        """The answers in finished rows, best first."""

    def free(self, bucket: Bucket, state: Any, rows: Sequence[int]) -> Any:
        """The state with these rows free; requests that still run in them are dropped."""

    def resize(self, bucket: Bucket, state: Any, rows: Sequence[int], size: int) -> Any:
        """A state of `size` rows that begins with `rows` of this state, in this order; its other rows are free."""


class Engine(Protocol):
    """One revision of a model on a device, and the tasks that it does.

    `requests` is called from any thread, `compile` from threads that only compile, and the tasks' methods from the
    workers' threads. A state belongs to one worker.
    """

    description: Description

    @property
    def buckets(self) -> Sequence[Bucket]:
        """Every shape bucket that is wanted, open or not."""

    @property
    def open(self) -> Open:
        """The buckets that can be used now. Every change makes a new object, so that `is` tells whether one happened.

        A state keeps its bucket and row count until it is given up, whether they are still open or not. A state can be
        resized between two row counts of its bucket that are open.
        """

    def compile(self, stop: Callable[[], bool], background: bool = False) -> None:
        """Compiles what has to exist before the model is served, on as many threads as there are cores.

        background: compiles everything else, on the calling thread, which gets a low priority; programs that most
        requests would have used come first. Each row count opens as soon as its programs exist and have run. Returns
        early when `stop()` is true.
        """

    def progress(self, first: bool = False) -> Progress:
        """How far `compile` is. first: counts only what has to exist before the model is served."""

    def requests(self, task_input: Input) -> Sequence[Request]:
        """One request, or one for each of several samples of the source.

        Raises InvalidArgument with the field, the limit and the value.
        """

    def work(self, bucket: Bucket) -> Once | Decode:
        """The object that runs the bucket's task."""
