"""What the scheduler, the engines and the service tell each other. Imports neither jax nor grpc."""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Task(enum.Enum):
    """What a lane computes."""

    GENERATE = "generate"
    CLASSIFY = "classify"


@dataclass(frozen=True)
class Lane:
    """One family of compiled shapes. Requests of one lane can run in one batch.

    source: the length that sources are padded to. target: room for the answer, start token included. sizes: the row
    counts that are compiled, ascending; a row is one source with all of its beams.
    """

    task: Task
    source: int
    target: int
    sizes: tuple[int, ...]
    beams: int = 1
    sample: bool = False

    @property
    def rows(self) -> int:
        return self.sizes[-1]

    @property
    def name(self) -> str:
        kind = "classify" if self.task is Task.CLASSIFY else f"beams{self.beams}" + ("-sample" if self.sample else "")
        return f"{kind}-{self.source}"


@dataclass(frozen=True)
class Request:
    """One source, checked and placed by `Engine.requests`.

    source: token ids, special tokens included. options: what the engine made of the caller's options, opaque to others.
    cost: estimated padded tokens x beams. stream: whether the caller wants tokens before the end.
    """

    source: tuple[int, ...]
    lane: Lane
    cost: int
    options: Any = None
    stream: bool = False


@dataclass(frozen=True)
class Hypothesis:
    """A generated sequence. tokens: without the start, with the end token. stopped: by the model, not the limit."""

    tokens: tuple[int, ...]
    score: float
    stopped: bool


@dataclass(frozen=True)
class Delta:
    """The next tokens of a stream; they are final."""

    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Finish:
    """The answer. Either hypotheses, best first, or for a classification the logits (contradiction, entailment).

    queued, computed: seconds from arrival to the encoder, and from there to here.
    """

    hypotheses: tuple[Hypothesis, ...]
    logits: tuple[float, float] | None
    queued: float
    computed: float


@dataclass(frozen=True)
class Failure:
    """The request gets no answer; `error` says why."""

    error: Exception


Event = Delta | Finish | Failure
Deliver = Callable[[Event], None]


@dataclass(frozen=True)
class Description:
    """What an engine serves.

    revision: digest of the weights. target_tokens: of the decoder, start token included.
    """

    revision: str
    tasks: tuple[Task, ...]
    dtype: str
    platform: str
    devices: int
    source_tokens: int
    target_tokens: int


class Engine(Protocol):
    """A model on a device. State is opaque; a row is an index into it, and holds a request or is free.

    `requests` is called from any thread, everything else from the workers' threads; a state belongs to one of them. A
    method that raises fails the requests it was called for and loses the state it was given.
    """

    description: Description

    @property
    def lanes(self) -> Sequence[Lane]:
        """Every lane, compiled before anything runs."""

    def compile(self, stop: Callable[[], bool]) -> None:
        """Compiles every lane and runs each program once. Returns early when `stop` says so."""

    def requests(
        self, source: Sequence[int], options: Mapping[str, Any], task: Task = Task.GENERATE, stream: bool = False
    ) -> Sequence[Request]:
        """One request, or one for each of several samples of the source.

        Checks ids and options (Hugging Face's names; absent: the checkpoint's default) and picks the lane.

        Raises InvalidArgument with the field, the limit and the value.
        """

    def classify(self, lane: Lane, requests: Sequence[Request]) -> Sequence[tuple[float, float]]:
        """The logits (contradiction, entailment) of each request."""

    def blank(self, lane: Lane, size: int) -> Any:
        """A state of `size` free rows."""

    def encode(self, lane: Lane, requests: Sequence[Request]) -> Any:
        """Runs the encoder on up to `lane.rows` sources; what comes out is for `insert`."""

    def insert(self, lane: Lane, state: Any, encoded: Any, rows: Sequence[int]) -> Any:
        """Puts the requests of a call of `encode`, in order, into free rows of a state, ready for their first step."""

    def step(self, lane: Lane, state: Any, steps: int) -> tuple[Any, Sequence[int]]:
        """Decodes up to `steps` steps in every live row; returns the state and the rows that are finished."""

    def prefix(self, lane: Lane, state: Any, rows: Sequence[int]) -> Sequence[tuple[int, ...]]:
        """The generated tokens of each row that no further step can change."""

    def results(self, lane: Lane, state: Any, rows: Sequence[int]) -> Sequence[tuple[Hypothesis, ...]]:
        """The answers in finished rows, best first."""

    def free(self, lane: Lane, state: Any, rows: Sequence[int]) -> Any:
        """Makes rows free, whatever runs in them."""

    def resize(self, lane: Lane, state: Any, rows: Sequence[int], size: int) -> Any:
        """A state of `size` rows that holds the given rows, in order, at its beginning."""
