"""An engine to compute by hand. It echoes.

The answer to a source t1 … tn (special tokens 0, 1, 2 left out) is t1 … tn and then the end token 2, one token a step:
after s steps a row has s tokens, after n + 1 steps it is finished. Its score is -n. With beams, hypothesis j (from 0)
is the same without its last j tokens and scores j less, and while the row runs, the last beams - 1 tokens are not
final. `max_new_tokens` cuts the answer, which then did not stop by itself. A classification's logits are (0, n).

`on_call(verb, requests)` runs before encode, insert, step and classify: a test blocks there, moves its clock or raises.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bart_server.scheduling.contract import Description, Hypothesis, Lane, Request, Task
from bart_server.scheduling.errors import InvalidArgument

END = 2
SPECIAL = frozenset({0, 1, END})


@dataclass
class Row:
    """One row: its request and the steps it has made."""

    request: Request
    steps: int = 0


@dataclass
class FakeEngine:
    """See the module's docstring. calls: every verb and its row count, in order."""

    sources: tuple[int, ...] = (8, 64)
    sizes: tuple[int, ...] = (1, 2, 4)
    beams: tuple[int, ...] = (1, 3)
    target_tokens: int = 64
    tasks: tuple[Task, ...] = (Task.GENERATE, Task.CLASSIFY)
    on_call: Callable[[str, Sequence[Request]], None] = lambda verb, requests: None
    calls: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lanes = [
            Lane(Task.GENERATE, source, self.target_tokens, self.sizes, beams, sample)
            for source in self.sources
            for beams in self.beams
            for sample in (False, True)
        ] + [Lane(Task.CLASSIFY, source, 0, self.sizes) for source in self.sources]
        self.description = Description(
            revision="fake:echo",
            tasks=self.tasks,
            dtype="int",
            platform="none",
            devices=1,
            source_tokens=max(self.sources),
            target_tokens=self.target_tokens,
        )

    def compile(self, stop: Callable[[], bool]) -> None:
        self._call("compile", ())

    def requests(
        self, source: Sequence[int], options: Mapping[str, Any], task: Task = Task.GENERATE, stream: bool = False
    ) -> list[Request]:
        beams, sample = options.get("num_beams", 1), options.get("do_sample", False)
        new_tokens = min(options.get("max_new_tokens", self.target_tokens - 1), self.target_tokens - 1)
        if task is Task.CLASSIFY:
            beams, sample, new_tokens = 1, False, 0
        if beams not in self.beams:
            raise InvalidArgument("options.num_beams", f"{beams} is not one of the compiled widths {list(self.beams)}")
        lanes = [
            lane
            for lane in self.lanes
            if (lane.task, lane.beams, lane.sample) == (task, beams, sample) and lane.source >= len(source)
        ]
        if not lanes:
            raise InvalidArgument("token_ids", f"{len(source)} tokens, at most {max(self.sources)} fit")
        options = {"num_return_sequences": 1, **options, "max_new_tokens": new_tokens}
        copies = options["num_return_sequences"] if beams == 1 else 1
        options |= {"num_return_sequences": options["num_return_sequences"] if beams > 1 else 1}
        return [Request(tuple(source), lanes[0], (lanes[0].source + new_tokens) * beams, options, stream)] * copies

    def classify(self, lane: Lane, requests: Sequence[Request]) -> Sequence[tuple[float, float]]:
        self._call("classify", requests)
        return [(0.0, float(len(content(request)))) for request in requests]

    def blank(self, lane: Lane, size: int) -> list[Row | None]:
        assert size in lane.sizes
        return [None] * size

    def encode(self, lane: Lane, requests: Sequence[Request]) -> list[Row]:
        self._call("encode", requests)
        return [Row(request) for request in requests]

    def insert(self, lane: Lane, state: list[Row | None], encoded: list[Row], rows: Sequence[int]) -> list[Row | None]:
        self._call("insert", [row.request for row in encoded])
        assert all(state[row] is None for row in rows)
        state = list(state)
        for row, taken in zip(rows, encoded, strict=True):
            state[row] = taken
        return state

    def step(self, lane: Lane, state: list[Row | None], steps: int) -> tuple[list[Row | None], list[int]]:
        self._call("step", [row.request for row in state if row])
        after = [row and Row(row.request, min(row.steps + steps, length(row.request))) for row in state]
        return after, [index for index, row in enumerate(after) if row and row.steps == length(row.request)]

    def prefix(self, lane: Lane, state: list[Row | None], rows: Sequence[int]) -> list[tuple[int, ...]]:
        taken = [row for index in rows if (row := state[index])]
        return [answer(row.request)[: max(0, row.steps - lane.beams + 1)] for row in taken]

    def results(self, lane: Lane, state: list[Row | None], rows: Sequence[int]) -> list[tuple[Hypothesis, ...]]:
        return [hypotheses(row.request) for index in rows if (row := state[index])]

    def free(self, lane: Lane, state: list[Row | None], rows: Sequence[int]) -> list[Row | None]:
        return [None if index in rows else row for index, row in enumerate(state)]

    def resize(self, lane: Lane, state: list[Row | None], rows: Sequence[int], size: int) -> list[Row | None]:
        assert size in lane.sizes and len(rows) <= size
        return [state[row] for row in rows] + [None] * (size - len(rows))

    def _call(self, verb: str, requests: Sequence[Request]) -> None:
        self.calls.append((verb, len(requests)))
        self.on_call(verb, requests)


def content(request: Request) -> tuple[int, ...]:
    """The source without special tokens."""
    return tuple(token for token in request.source if token not in SPECIAL)


def answer(request: Request) -> tuple[int, ...]:
    """What a request is answered with."""
    return (*content(request), END)[: request.options["max_new_tokens"]]


def length(request: Request) -> int:
    """How many steps a request takes: one a token, and one to notice an empty answer."""
    return max(1, len(answer(request)))


def hypotheses(request: Request) -> tuple[Hypothesis, ...]:
    tokens = answer(request)
    stopped = tokens[-1:] == (END,)
    body = tokens[:-1] if stopped else tokens
    return tuple(
        Hypothesis((*body[: len(body) - j], *((END,) if stopped else ())), float(-len(body) - j), stopped)
        for j in range(request.options["num_return_sequences"])
    )
