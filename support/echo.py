"""The echo engine: an Engine of the server whose answers repeat the source, so that tests can compute them by hand.

The answer to a source t1 … tn (without the special tokens 0, 1 and 2) is t1 … tn followed by the end token 2. Each step
generates one token: after s steps a row has s tokens, and after n + 1 steps it is finished. The answer's score is -n.
With beams, hypothesis j (from 0 on) lacks the last j of these tokens, and its score is lower by j. While such a row
runs, its last beams - 1 tokens are not final. `max_new_tokens` cuts the answer, which then is not stopped by the model.
The values of a classification are (0, n). The values of a score are minus its labels, and 0 where a label is -100.

All shapes are open from the beginning, unless `priority` is given: then shapes are compiled in the order of its values,
and each opens when it is compiled. `on_call(verb, requests)` runs before each call of compile, encode, insert, step and
run. In it a test can block, change its clock, or raise an error.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bart_server.engine.store import Program, Shape, Store
from bart_server.scheduling.contract import Bucket, Description, Hypothesis, Kind, Open, Progress, Request, best
from bart_server.scheduling.errors import InvalidArgument
from bart_server.scheduling.tasks import Classify, Generate, Input, Score, Task, task_name

END = 2
SPECIAL = frozenset({0, 1, END})


@dataclass
class Row:
    """One row: its request, and the number of steps that it has made."""

    request: Request
    steps: int = 0


@dataclass(eq=False)
class FakeEngine:
    """The echo engine. `calls` has the name and the number of requests of every call of a method, in order."""

    sources: tuple[int, ...] = (8, 64)
    sizes: tuple[int, ...] = (1, 2, 4)
    beams: tuple[int, ...] = (1, 3)
    target_tokens: int = 64
    tasks: tuple[Task, ...] = (Generate, Classify, Score)
    on_call: Callable[[str, Sequence[Request]], None] = lambda verb, requests: None
    priority: Callable[[Bucket, int], int] | None = None
    revision: str = "fake:echo"
    calls: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.buckets = [
            self._generating(s, beams, sample) for s in self.sources for beams in self.beams for sample in (False, True)
        ]
        for task in (Classify, Score):
            self.buckets += [Bucket(Kind.ONCE, task, f"{task_name(task)}-{s}", self.sizes, s, s) for s in self.sources]
        self.description = Description(
            revision=self.revision,
            tasks=self.tasks,
            dtype="int",
            platform="none",
            layout="none",
            devices=1,
            source_tokens=max(self.sources),
            target_tokens=self.target_tokens,
        )
        self.store = Store()
        if self.priority is None:
            self.store.open = {bucket: bucket.sizes for bucket in self.buckets}
        else:
            self.store.want([self._shape(bucket, size) for bucket in self.buckets for size in bucket.sizes])

    def _generating(self, source: int, beams: int, sample: bool) -> Bucket:
        name = f"beams{beams}{'-sample' if sample else ''}-{source}"
        cost = (source + self.target_tokens) * beams
        return Bucket(Kind.DECODE, Generate, name, self.sizes, cost, source, self.target_tokens, beams, sample)

    def _shape(self, bucket: Bucket, size: int) -> Shape:
        program = Program((bucket, size), lambda: self._call("compile", ()))
        return Shape(bucket, size, [program], lambda: None, self.priority(bucket, size) if self.priority else 0)

    @property
    def open(self) -> Open:
        return self.store.open

    def compile(self, stop: Callable[[], bool], background: bool = False) -> None:
        if self.priority is None and not background:
            self._call("compile", ())
        self.store.compile(stop, background)

    def progress(self, first: bool = False) -> Progress:
        return self.store.progress(first)

    def oversized(self, bucket: Bucket, size: int, rows: int, requests: Sequence[Request]) -> int:
        return self.store.oversized(bucket, size, rows, requests)

    def work(self, bucket: Bucket) -> "FakeEngine":
        return self

    def requests(self, task_input: Input) -> list[Request]:
        source = tuple(task_input.source)
        if isinstance(task_input, Generate):
            return self._generations(source, task_input.options, task_input.stream)
        buckets = self._fitting(source, type(task_input), 1, False)
        labels = task_input.labels if isinstance(task_input, Score) else ()
        if len(labels) > self.target_tokens:
            raise InvalidArgument("labels", f"{len(labels)} tokens, at most {self.target_tokens} fit")
        return [Request(source, buckets, buckets[0].source, labels)]

    def _generations(self, source: tuple[int, ...], options: Mapping[str, Any], stream: bool) -> list[Request]:
        beams, sample = options.get("num_beams", 1), options.get("do_sample", False)
        if beams not in self.beams:
            raise InvalidArgument("options.num_beams", f"{beams} is not one of the compiled widths {list(self.beams)}")
        new_tokens = min(options.get("max_new_tokens", self.target_tokens - 1), self.target_tokens - 1)
        returned = options.get("num_return_sequences", 1)
        payload = {**options, "max_new_tokens": new_tokens, "num_return_sequences": returned if beams > 1 else 1}
        buckets = self._fitting(source, Generate, beams, sample)
        cost = ((best(buckets, self.open) or buckets[0]).source + new_tokens) * beams
        return [Request(source, buckets, cost, payload, stream)] * (returned if beams == 1 else 1)

    def _fitting(self, source: tuple[int, ...], task: Task, beams: int, sample: bool) -> tuple[Bucket, ...]:
        kind = (task, beams, sample)
        family = [bucket for bucket in self.buckets if (bucket.task, bucket.beams, bucket.sample) == kind]
        buckets = tuple(bucket for bucket in family if bucket.source >= len(source))
        if not buckets:
            raise InvalidArgument("token_ids", f"{len(source)} tokens, at most {max(self.sources)} fit")
        return buckets

    def run(self, bucket: Bucket, size: int, requests: Sequence[Request]) -> Sequence[tuple[float, ...]]:
        self._call("run", requests)
        assert len(requests) <= size
        if bucket.task is Score:
            return [tuple(float(-max(label, 0)) for label in request.payload) for request in requests]
        return [(0.0, float(len(content(request)))) for request in requests]

    def init(self, bucket: Bucket, size: int) -> list[Row | None]:
        assert size in bucket.sizes
        return [None] * size

    def encode(self, bucket: Bucket, size: int, requests: Sequence[Request]) -> list[Row]:
        self._call("encode", requests)
        assert len(requests) <= size
        assert all(len(request.source) <= bucket.source for request in requests)
        return [Row(request) for request in requests]

    def insert(
        self, bucket: Bucket, state: list[Row | None], encoded: list[Row], rows: Sequence[int]
    ) -> list[Row | None]:
        self._call("insert", [row.request for row in encoded])
        assert all(state[row] is None for row in rows)
        state = list(state)
        for row, taken in zip(rows, encoded, strict=True):
            state[row] = taken
        return state

    def step(self, bucket: Bucket, state: list[Row | None], steps: int) -> tuple[list[Row | None], list[int]]:
        self._call("step", [row.request for row in state if row])
        after = [row and Row(row.request, min(row.steps + steps, length(row.request))) for row in state]
        return after, [index for index, row in enumerate(after) if row and row.steps == length(row.request)]

    def prefix(self, bucket: Bucket, state: list[Row | None], rows: Sequence[int]) -> list[tuple[int, ...]]:
        taken = [row for index in rows if (row := state[index])]
        return [answer(row.request)[: max(0, row.steps - bucket.beams + 1)] for row in taken]

    def results(self, bucket: Bucket, state: list[Row | None], rows: Sequence[int]) -> list[tuple[Hypothesis, ...]]:
        return [hypotheses(row.request) for index in rows if (row := state[index])]

    def free(self, bucket: Bucket, state: list[Row | None], rows: Sequence[int]) -> list[Row | None]:
        return [None if index in rows else row for index, row in enumerate(state)]

    def resize(self, bucket: Bucket, state: list[Row | None], rows: Sequence[int], size: int) -> list[Row | None]:
        assert size in bucket.sizes and len(rows) <= size
        return [state[row] for row in rows] + [None] * (size - len(rows))

    def _call(self, verb: str, requests: Sequence[Request]) -> None:
        self.calls.append((verb, len(requests)))
        self.on_call(verb, requests)


def content(request: Request) -> tuple[int, ...]:
    """The source without special tokens."""
    return tuple(token for token in request.source if token not in SPECIAL)


def answer(request: Request) -> tuple[int, ...]:
    """The tokens of the answer, with the end token unless it was cut."""
    return (*content(request), END)[: request.payload["max_new_tokens"]]


def length(request: Request) -> int:
    """The number of steps until the request is finished: one for each token, but at least one."""
    return max(1, len(answer(request)))


def hypotheses(request: Request) -> tuple[Hypothesis, ...]:
    tokens = answer(request)
    stopped = tokens[-1:] == (END,)
    body = tokens[:-1] if stopped else tokens
    return tuple(
        Hypothesis((*body[: len(body) - j], *((END,) if stopped else ())), float(-len(body) - j), stopped)
        for j in range(request.payload["num_return_sequences"])
    )
