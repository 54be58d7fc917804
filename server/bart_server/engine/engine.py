"""BART on a device, in lanes of static shapes over bart_inference. With programs.py and rows.py all that imports jax.

A lane's state is bart_inference's State of `size` rows on the device, and beside it on the host which request each row
holds.
"""

import concurrent.futures
import dataclasses
import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from bart_inference import OptionError, Options, Prepared
from bart_inference.buckets import LENGTHS, TARGETS, bucket
from bart_inference.devices import ROWS, data_mesh
from bart_inference.generation.arrays import OptionArrays, pack
from bart_inference.generation.options import resolve
from bart_inference.generation.search import State
from bart_inference.generation.stream import final_tokens
from bart_inference.model.transformer import Pairs
from bart_inference.tasks.zero_shot import entailment_id
from jax.sharding import NamedSharding, PartitionSpec

from bart_server.engine.packing import EncoderShape, Piece, Placed, Planned, beginning, entries_of, pieces
from bart_server.engine.programs import Programs
from bart_server.scheduling.contract import Description, Hypothesis, Lane, Request, Task
from bart_server.scheduling.errors import InvalidArgument
from bart_server.settings import SettingsError

log = logging.getLogger(__name__)
HEAD = "classification_head"
PLANS = 256  # kept
EXCHANGE = threading.Lock()
Tree = TypeVar("Tree")


@dataclasses.dataclass
class Slots:
    """state: on the device. done: its flags on the host. requests: what each row holds."""

    state: State
    done: np.ndarray
    requests: list[Request | None]


class Encoded(NamedTuple):
    """parts: what was encoded together, as the encoder was asked and as it answered: pieces, ids, keys and values."""

    requests: list[Request]
    parts: list[tuple[Piece, np.ndarray, Pairs]]


class Plan(NamedTuple):
    """What options come to: resolved, the longest answer in tokens, and packed as the first of their copies."""

    options: Options
    longest: int
    packed: OptionArrays


class Shapes(NamedTuple):
    """What is compiled; see the settings of the same names."""

    beams: tuple[int, ...]
    sampling_beams: tuple[int, ...]
    sources: tuple[int, ...]
    target: int
    rows: tuple[int, ...]


class JaxEngine:
    """See types.Engine."""

    def __init__(self, prepared: Prepared, revision: str, shapes: Shapes) -> None:
        self._mesh = data_mesh()
        self._rows = NamedSharding(self._mesh, ROWS)
        self._weights = jax.device_put(prepared.weights, NamedSharding(self._mesh, PartitionSpec()))
        self._config = prepared.config
        self._generation = prepared.generation
        [default] = resolve(
            self._generation, self._config, {}, None, 1
        )  # a checkpoint that asks for too much fails here
        most = self._config.max_position_embeddings
        shapes = complete(shapes, default.lengths(1, self._config)[1], most)
        sizes = tuple(rows * self._mesh.size for rows in shapes.rows)
        self._entailment = entailment_id(prepared.labels) if HEAD in prepared.weights else None
        if self._entailment is not None:
            self.lanes = [Lane(Task.CLASSIFY, source, 0, sizes) for source in shapes.sources]
        else:
            self.lanes = generating(shapes, sizes)
            if (default.num_beams, default.do_sample) not in {(lane.beams, lane.sample) for lane in self.lanes}:
                log.warning("the checkpoint's default beam width %d is not compiled", default.num_beams)
        self.description = Description(
            revision=revision,
            tasks=(self.lanes[0].task,),
            dtype=str(prepared.weights["shared"].dtype),
            platform=jax.default_backend(),
            devices=self._mesh.size,
            source_tokens=shapes.sources[-1],
            target_tokens=shapes.target,
        )
        self._plans: dict[str, Plan] = {}
        self._programs = Programs(self._mesh, self._weights, self._config, self._example)

    # ── compilation ───────────────────────────────────────────────────────────────────────────────────────────────────

    def compile(self, stop: Callable[[], bool]) -> None:
        began = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(
            os.cpu_count()
        ) as pool:  # XLA compiles outside the interpreter's lock
            for _ in pool.map(lambda work: None if stop() else work(), self._programs.work(self.lanes)):
                pass
        encoded: dict[EncoderShape, Encoded] = {}
        for lane in self.lanes:
            if stop():
                return
            self._warm(lane, encoded)
        log.info("compiled", extra={"lanes": len(self.lanes), "seconds": round(time.perf_counter() - began, 1)})

    def _example(self, lane: Lane) -> Request:
        """A request that fills its source."""
        options = {"num_beams": lane.beams, "do_sample": lane.sample} if lane.task is Task.GENERATE else {}
        return self.requests([self._config.eos_token_id] * lane.source, options, lane.task)[0]

    def _warm(self, lane: Lane, encoded: dict[EncoderShape, Encoded]) -> None:
        """Runs every program of a lane once, through the verbs that serving uses; lanes share what is `encoded`."""
        request = self._example(lane)
        for size in lane.sizes:
            if lane.task is Task.CLASSIFY:
                self.classify(lane, [request] * size)
                continue
            state = self.blank(lane, size)
            for shape in self._programs.encoder_shapes(lane, size):
                part = dataclasses.replace(request, source=request.source[: shape.length])
                if shape not in encoded:
                    encoded[shape] = self._encode([part], [Piece(shape, [[(0, 0)]])])
                state = self.insert(lane, state, encoded[shape]._replace(requests=[part]), [0])
            state, _ = self.step(lane, state, 1)
            self.prefix(lane, state, [0])
            self.results(lane, state, [0])
            self.free(lane, state, [0])

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def requests(
        self, source: Sequence[int], options: Mapping[str, Any], task: Task = Task.GENERATE, stream: bool = False
    ) -> list[Request]:
        self._check_ids(source)
        if task is Task.CLASSIFY:
            lane = min((lane for lane in self.lanes if lane.source >= len(source)), key=lambda lane: lane.source)
            return [Request(tuple(source), lane, 2 * lane.source)]  # the decoder reads the source too
        plan = self._plan(options)
        found, lane = plan.options, self._lane(len(source), plan.options)
        if plan.longest > lane.target:
            name = "max_length" if found.max_new_tokens is None else "max_new_tokens"
            raise InvalidArgument(
                f"options.{name}", f"asks for {plan.longest} tokens, start token included, at most {lane.target}"
            )
        copies = found.num_return_sequences if found.num_beams == 1 else 1
        if copies > lane.rows:
            raise InvalidArgument("options.num_return_sequences", f"{copies} samples, at most {lane.rows} run at once")
        own: list[dict[str, Any]] = [{"copy": np.full(1, copy, np.uint32)} for copy in range(copies)]
        if found.do_sample and "seed" not in options:
            seed = np.full(1, secrets.randbits(32), np.uint32)
            own = [{"seed": seed, **fields} for fields in own]
        cost = (lane.source + plan.longest) * lane.beams
        packed = [plan.packed._replace(**fields) for fields in own]
        return [Request(tuple(source), lane, cost, Planned(found, row), stream) for row in packed]

    def _plan(self, options: Mapping[str, Any]) -> Plan:
        """Most requests ask for the same few options, and to resolve and pack them takes longer than all else here."""
        key = repr(sorted(options.items()))
        if (known := self._plans.get(key)) is not None:
            return known
        try:
            [found] = resolve(self._generation, self._config, options, None, 1)
            _, longest = found.lengths(1, self._config)
        except OptionError as error:
            raise InvalidArgument(f"options.{error.option}", str(error).removeprefix(f"{error.option} ")) from None
        plan = Plan(found, longest, pack([found], self._config, self.lanes[0].target, [1], [0]))
        if len(self._plans) >= PLANS:
            self._plans.clear()
        self._plans[key] = plan
        return plan

    def _check_ids(self, source: Sequence[int]) -> None:
        most, vocabulary = self.description.source_tokens, self._config.vocab_size
        if not 1 <= len(source) <= most:
            raise InvalidArgument("token_ids", f"{len(source)} tokens, between 1 and {most} fit")
        if max(source) >= vocabulary:
            raise InvalidArgument("token_ids", f"holds {max(source)}, the vocabulary ends at {vocabulary - 1}")

    def _lane(self, length: int, options: Options) -> Lane:
        """The lane of the shortest source length that holds it."""
        fitting = [
            lane
            for lane in self.lanes
            if (lane.beams, lane.sample) == (options.num_beams, options.do_sample) and lane.source >= length
        ]
        if fitting:
            return min(fitting, key=lambda lane: lane.source)
        widths = sorted({lane.beams for lane in self.lanes if lane.sample == options.do_sample})
        kind = "sampling widths" if options.do_sample else "widths"
        raise InvalidArgument("options.num_beams", f"{options.num_beams} is not one of the compiled {kind} {widths}")

    # ── verbs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def classify(self, lane: Lane, requests: Sequence[Request]) -> Sequence[tuple[float, float]]:
        size = next(size for size in lane.sizes if size >= len(requests))
        ids, mask, last = np.zeros((size, lane.source), np.int32), np.zeros((size, lane.source), np.bool_), []
        for row, request in enumerate(requests):
            ids[row, : len(request.source)], mask[row, : len(request.source)] = request.source, True
            ends = [at for at, token in enumerate(request.source) if token == self._config.eos_token_id]
            last.append(ends[-1] if ends else len(request.source) - 1)
        positions = np.array([*last, *[0] * (size - len(last))], np.int32)[:, None]
        logits = np.asarray(self._programs.classify[lane, size](self._weights, ids, mask, positions), np.float32)
        contradiction = -1 if self._entailment == 0 else 0  # as Hugging Face's pipeline has it
        return [(float(row[contradiction]), float(row[self._entailment])) for row in logits[: len(requests)]]

    def blank(self, lane: Lane, size: int) -> Slots:
        return Slots(self._programs.blank[lane, size](), np.ones(size, np.bool_), [None] * size)

    def encode(self, lane: Lane, requests: Sequence[Request]) -> Encoded:
        shapes, sources = self._programs.encoder_shapes(lane, lane.rows), [len(request.source) for request in requests]
        return self._encode(requests, pieces(sources, shapes, self._mesh.size))

    def _encode(self, requests: Sequence[Request], together: Sequence[Piece]) -> Encoded:
        parts = []
        for piece in together:
            ids = np.zeros((self._mesh.size * piece.shape.rows, piece.shape.length), np.int32)
            positions = np.zeros_like(ids)
            for row, held in enumerate(piece.rows):
                for index, start in held:
                    tokens = requests[index].source
                    here = slice(start, start + len(tokens))
                    ids[row, here], positions[row, here] = tokens, range(len(tokens))
            parts.append((piece, ids, self._programs.prefill[piece.shape](self._weights, ids, positions)))
        return Encoded(list(requests), jax.block_until_ready(parts))  # a fault of the encoder's is raised here

    def insert(self, lane: Lane, slots: Slots, encoded: Encoded, rows: Sequence[int]) -> Slots:
        done, requests = slots.done.copy(), list(slots.requests)
        size, devices = len(requests), self._mesh.size
        source, rest = slots.state.source, slots.state._asdict() | {"source": None}
        for piece, ids, packed in encoded.parts:
            held = [(index, row, start) for row, sources in enumerate(piece.rows) for index, start in sources]
            placed = [Placed(row, start, len(encoded.requests[index].source)) for index, row, start in held]
            entries = entries_of([rows[index] for index, *_ in held], placed, size, devices)
            put = self._programs.put[lane.source, size, piece.shape]
            source = self._exchanged(partial(put, source, packed, ids, entries))
        entries = entries_of(rows, [beginning(request) for request in encoded.requests], size, devices)
        state = self._programs.begin[lane, size](State(**rest), entries)._replace(source=source)
        for row, request in zip(rows, encoded.requests, strict=True):
            done[row], requests[row] = False, request
        return Slots(state, done, requests)

    def _exchanged(self, program: Callable[[], Tree]) -> Tree:
        """What a program gives in which devices wait for each other: two of them at once could wait for ever."""
        if self._mesh.size == 1:
            return program()
        with EXCHANGE:
            return jax.block_until_ready(program())

    def step(self, lane: Lane, slots: Slots, steps: int) -> tuple[Slots, list[int]]:
        state = self._programs.step[lane, len(slots.requests)](self._weights, slots.state, np.int32(steps))
        done = np.array(state.done)
        finished = [row for row, request in enumerate(slots.requests) if request and done[row]]
        return Slots(state, done, slots.requests), finished

    def prefix(self, lane: Lane, slots: Slots, rows: Sequence[int]) -> list[tuple[int, ...]]:
        state = slots.state
        if lane.beams == 1:
            tokens, length = jax.device_get((state.tokens, state.length))
            return [tuple(tokens[row, 0, 1 : length[row]].tolist()) for row in rows]
        watched = ("tokens", "length", "score", "done", "finished")
        host = state._replace(**{name: jax.device_get(getattr(state, name)) for name in watched})
        return [tuple(final_tokens(host, row)[1:]) for row in rows]

    def results(self, lane: Lane, slots: Slots, rows: Sequence[int]) -> list[tuple[Hypothesis, ...]]:
        state = slots.state
        if lane.beams > 1:
            found = jax.device_get(state.finished)
            tokens, lengths, scores = found.tokens, found.length, found.score
        else:
            tokens, length, score = jax.device_get((state.tokens, state.length, state.score))
            lengths, scores = length[:, None], score
        answers = []
        for row in rows:
            request = slots.requests[row]
            assert request is not None
            options: Options = request.options.options
            _, longest = options.lengths(1, self._config)
            hypotheses = []
            for beam in range(options.num_return_sequences if lane.beams > 1 else 1):
                ids = tuple(tokens[row, beam, 1 : lengths[row, beam]].tolist())
                score = float(scores[row, beam])
                if lane.beams == 1:
                    score /= float(request.options.packed.length_power[0, max(len(ids), 1)])
                hypotheses.append(Hypothesis(ids, score, stopped(ids, options, longest)))
            answers.append(tuple(hypotheses))
        return answers

    def free(self, lane: Lane, slots: Slots, rows: Sequence[int]) -> Slots:
        requests = [None if row in rows else request for row, request in enumerate(slots.requests)]
        if slots.done[list(rows)].all():  # they have finished, the device knows
            return Slots(slots.state, slots.done, requests)
        done = slots.done.copy()
        done[list(rows)] = True
        return Slots(slots.state._replace(done=jax.device_put(done, self._rows)), done, requests)

    def resize(self, lane: Lane, slots: Slots, rows: Sequence[int], size: int) -> Slots:
        old = np.zeros(size, np.int32)
        old[: len(rows)] = rows
        live = np.arange(size) < len(rows)
        take = self._programs.take[lane, len(slots.requests), size]
        state = self._exchanged(partial(take, slots.state, old, live))
        requests = [slots.requests[row] for row in rows] + [None] * (size - len(rows))
        return Slots(state, np.where(live, slots.done[old], True), requests)


def stopped(ids: Sequence[int], options: Options, longest: int) -> bool:
    """Whether the model ended a sequence: not if the end token was forced where the limit is."""
    forced = options.forced_eos_token_id is not None and len(ids) + 1 >= longest
    return bool(ids) and ids[-1] in options.eos_ids and not forced


def generating(shapes: Shapes, sizes: tuple[int, ...]) -> list[Lane]:
    """The lanes of generation. Sampling is rarer, and a lane takes seconds to compile: it has the longest source."""
    widths = [(beams, False) for beams in shapes.beams] + [(beams, True) for beams in shapes.sampling_beams]
    return [
        Lane(Task.GENERATE, source, shapes.target, sizes, beams, sample)
        for beams, sample in widths
        for source in (shapes.sources[-1:] if sample else shapes.sources)
    ]


def complete(shapes: Shapes, default: int, most: int) -> Shapes:
    """The shapes with what was left open chosen. default: the checkpoint's longest answer. most: its position table.

    Raises SettingsError for what the position table cannot hold.
    """
    sources = shapes.sources or tuple(sorted({bucket(-(-most // part), LENGTHS, most) for part in (4, 1)}))
    target = shapes.target or bucket(min(default + default // 2, most), TARGETS, most)
    for name, value in (("sources", sources[-1]), ("target", target)):
        if value > most:
            raise SettingsError(f"--{name} is {value}, it has to be at most {most}, the model's position table")
    if target < default:
        raise SettingsError(f"--target is {target}, it has to be at least {default}, the checkpoint's default length")
    return shapes._replace(sources=sources, target=target)


def digest(prepared: Prepared) -> str:
    """A name for the weights that changes when one of them does."""
    found = hashlib.sha256(repr(prepared.config).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(prepared.weights):
        found.update(jax.tree_util.keystr(path).encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return f"sha256:{found.hexdigest()[:16]}"
