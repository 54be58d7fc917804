"""Generate: sequences that follow from a source, by greedy search, sampling or beam search.

A bucket's state is bart_inference's State of `size` rows on the device, and beside it on the host which request each
row holds.
"""

import dataclasses
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from bart_inference import OptionError, Options
from bart_inference.generation.arrays import OptionArrays, pack
from bart_inference.generation.options import resolve
from bart_inference.generation.search import State
from bart_inference.generation.stream import final_tokens
from bart_inference.model.transformer import Pairs

from bart_server.engine.device import DeviceModel
from bart_server.engine.packing import EncoderShape, Piece, Placed, Planned, beginning, entries_of, pieces
from bart_server.engine.programs import DecodePrograms
from bart_server.engine.shapes import Shapes
from bart_server.engine.store import Program, Store
from bart_server.engine.tasks.classify import HEAD
from bart_server.scheduling.contract import Bucket, Hypothesis, Kind, Open, Request, best
from bart_server.scheduling.errors import InvalidArgument
from bart_server.scheduling.tasks import Generate

log = logging.getLogger(__name__)
PLANS = 256  # most option plans that are cached


@dataclasses.dataclass
class DecodeState:
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


class Generation:
    """See contract.Decode."""

    def __init__(self, model: DeviceModel, shapes: Shapes, executables: Store) -> None:
        self._model = model
        self._executables = executables
        self._target = shapes.target
        self.buckets = make_buckets(shapes)
        self._programs = DecodePrograms(model, self._example)
        self._plans: dict[str, Plan] = {}
        self._encoders_run: set[EncoderShape] = set()
        width = model.default.num_beams
        if (width, model.default.do_sample) not in {(bucket.beams, bucket.sample) for bucket in self.buckets}:
            log.warning("the checkpoint's default beam width %d is not compiled", width)

    @classmethod
    def of(cls, model: DeviceModel, shapes: Shapes, executables: Store) -> "Generation | None":
        return None if HEAD in model.weights else cls(model, shapes, executables)

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def requests(self, task_input: Generate, available: Open) -> list[Request]:
        options = task_input.options
        plan = self._plan(options)
        resolved, buckets = plan.options, self._buckets(len(task_input.source), plan.options)
        bucket = best(buckets, available) or buckets[0]
        if plan.longest > bucket.target:
            name = "max_length" if resolved.max_new_tokens is None else "max_new_tokens"
            limit = f"start token included, at most {bucket.target}"
            raise InvalidArgument(f"options.{name}", f"asks for {plan.longest} tokens, {limit}")
        copies = resolved.num_return_sequences if resolved.num_beams == 1 else 1
        if copies > bucket.sizes[-1]:
            limit = f"at most {bucket.sizes[-1]} run at once"
            raise InvalidArgument("options.num_return_sequences", f"{copies} samples, {limit}")
        own: dict[str, Any] = {}  # what differs from the plan's row
        if resolved.do_sample and "seed" not in options:
            own["seed"] = np.full(1, secrets.randbits(32), np.uint32)
        source, cost = tuple(task_input.source), (bucket.source + plan.longest) * bucket.beams
        requests = []
        for copy in range(copies):
            own["copy"] = np.full(1, copy, np.uint32)
            planned = Planned(resolved, plan.packed._replace(**own))
            requests.append(Request(source, buckets, cost, planned, task_input.stream))
        return requests

    def _plan(self, options: Mapping[str, Any]) -> Plan:
        """Most requests ask for the same few options, and to resolve and pack them takes longer than all else here."""
        key = repr(sorted(options.items()))
        if (known := self._plans.get(key)) is not None:
            return known
        config = self._model.config
        try:
            [resolved] = resolve(self._model.generation, config, options, None, 1)
            _, longest = resolved.lengths(1, config)
        except OptionError as error:
            raise InvalidArgument(f"options.{error.option}", str(error).removeprefix(f"{error.option} ")) from None
        plan = Plan(resolved, longest, pack([resolved], config, self._target, [1], [0]))
        if len(self._plans) >= PLANS:
            self._plans.clear()
        self._plans[key] = plan
        return plan

    def _buckets(self, length: int, options: Options) -> tuple[Bucket, ...]:
        """Those that can hold it, the shortest source first."""
        kind = (options.num_beams, options.do_sample)
        buckets = tuple(
            bucket for bucket in self.buckets if (bucket.beams, bucket.sample) == kind and bucket.source >= length
        )
        if not buckets:
            widths = sorted({bucket.beams for bucket in self.buckets if bucket.sample == options.do_sample})
            name = "sampling widths" if options.do_sample else "widths"
            description = f"{options.num_beams} is not one of the compiled {name} {widths}"
            raise InvalidArgument("options.num_beams", description)
        return buckets

    # ── programs ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def programs(self, bucket: Bucket, size: int, others: Sequence[int]) -> list[Program]:
        return self._programs.of(bucket, size, others)

    def warm_up(self, bucket: Bucket, size: int) -> None:
        request = self._example(bucket)
        state = self.init(bucket, size)
        for shape in self._programs.encoder_shapes(bucket, size):
            part = dataclasses.replace(request, source=request.source[: shape.length])
            piece = Piece(shape, [[(0, 0)]])
            if shape not in self._encoders_run:
                self._encode([part], [piece])
                self._encoders_run.add(shape)
            ids = np.zeros((self._model.devices * shape.rows, shape.length), np.int32)
            pairs = self._model.zeros(self._programs.encoded_shapes(shape))
            state = self.insert(bucket, state, Encoded([part], [(piece, ids, pairs)]), [0])
        state, _ = self.step(bucket, state, 1)
        self.prefix(bucket, state, [0])
        self.results(bucket, state, [0])
        self.free(bucket, state, [0])

    def _example(self, bucket: Bucket) -> Request:
        """A request that fills the bucket's source."""
        options = {"num_beams": bucket.beams, "do_sample": bucket.sample}
        return self.requests(Generate([self._model.config.eos_token_id] * bucket.source, options), {})[0]

    # ── decoding ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def init(self, bucket: Bucket, size: int) -> DecodeState:
        return DecodeState(self._executables["init", bucket, size](), np.ones(size, np.bool_), [None] * size)

    def encode(self, bucket: Bucket, size: int, requests: Sequence[Request]) -> Encoded:
        shapes = self._programs.encoder_shapes(bucket, size)
        return self._encode(
            requests, pieces([len(request.source) for request in requests], shapes, self._model.devices)
        )

    def _encode(self, requests: Sequence[Request], together: Sequence[Piece]) -> Encoded:
        parts = []
        for piece in together:
            ids = np.zeros((self._model.devices * piece.shape.rows, piece.shape.length), np.int32)
            positions = np.zeros_like(ids)
            for row, sources in enumerate(piece.rows):
                for index, start in sources:
                    tokens = requests[index].source
                    here = slice(start, start + len(tokens))
                    ids[row, here], positions[row, here] = tokens, range(len(tokens))
            program = self._executables["prefill", piece.shape]
            parts.append((piece, ids, program(self._model.weights, ids, positions)))
        return Encoded(list(requests), jax.block_until_ready(parts))  # a fault of the encoder's is raised here

    def insert(self, bucket: Bucket, slots: DecodeState, encoded: Encoded, rows: Sequence[int]) -> DecodeState:
        done, requests = slots.done.copy(), list(slots.requests)
        size, devices = len(requests), self._model.devices
        source, rest = slots.state.source, slots.state._asdict() | {"source": None}
        for piece, ids, pairs in encoded.parts:
            held = [(index, row, start) for row, sources in enumerate(piece.rows) for index, start in sources]
            placed = [Placed(row, start, len(encoded.requests[index].source)) for index, row, start in held]
            entries = entries_of([rows[index] for index, *_ in held], placed, size, devices)
            put = self._executables["put", bucket.source, size, piece.shape]
            source = self._model.exchanged(put, source, pairs, ids, entries)
        entries = entries_of(rows, [beginning(request, bucket) for request in encoded.requests], size, devices)
        state = self._executables["begin", bucket, size](State(**rest), entries)._replace(source=source)
        for row, request in zip(rows, encoded.requests, strict=True):
            done[row], requests[row] = False, request
        return DecodeState(state, done, requests)

    def step(self, bucket: Bucket, slots: DecodeState, steps: int) -> tuple[DecodeState, list[int]]:
        program = self._executables["step", bucket, len(slots.requests)]
        state = program(self._model.weights, slots.state, np.int32(steps))
        done = np.array(state.done)
        finished = [row for row, request in enumerate(slots.requests) if request and done[row]]
        return DecodeState(state, done, slots.requests), finished

    def prefix(self, bucket: Bucket, slots: DecodeState, rows: Sequence[int]) -> list[tuple[int, ...]]:
        state = slots.state
        if bucket.beams == 1:
            tokens, length = jax.device_get((state.tokens, state.length))
            return [tuple(tokens[row, 0, 1 : length[row]].tolist()) for row in rows]
        watched = ("tokens", "length", "score", "done", "finished")
        host = state._replace(**{name: jax.device_get(getattr(state, name)) for name in watched})
        return [tuple(final_tokens(host, row)[1:]) for row in rows]

    def results(self, bucket: Bucket, slots: DecodeState, rows: Sequence[int]) -> list[tuple[Hypothesis, ...]]:
        state = slots.state
        if bucket.beams > 1:
            finished = jax.device_get(state.finished)
            tokens, lengths, scores = finished.tokens, finished.length, finished.score
        else:
            tokens, length, scores = jax.device_get((state.tokens, state.length, state.score))
            lengths = length[:, None]
        answers = []
        for row in rows:
            request = slots.requests[row]
            assert request is not None
            options: Options = request.payload.options
            _, longest = options.lengths(1, self._model.config)
            hypotheses = []
            for beam in range(options.num_return_sequences if bucket.beams > 1 else 1):
                ids = tuple(tokens[row, beam, 1 : lengths[row, beam]].tolist())
                score = float(scores[row, beam])
                if bucket.beams == 1:
                    score /= float(request.payload.packed.length_power[0, max(len(ids), 1)])
                hypotheses.append(Hypothesis(ids, score, stopped(ids, options, longest)))
            answers.append(tuple(hypotheses))
        return answers

    def free(self, bucket: Bucket, slots: DecodeState, rows: Sequence[int]) -> DecodeState:
        requests = [None if row in rows else request for row, request in enumerate(slots.requests)]
        if slots.done[list(rows)].all():  # they have finished, the device knows
            return DecodeState(slots.state, slots.done, requests)
        done = slots.done.copy()
        done[list(rows)] = True
        state = slots.state._replace(done=jax.device_put(done, self._model.rows))
        return DecodeState(state, done, requests)

    def resize(self, bucket: Bucket, slots: DecodeState, rows: Sequence[int], size: int) -> DecodeState:
        old = np.zeros(size, np.int32)
        old[: len(rows)] = rows
        live = np.arange(size) < len(rows)
        program = self._executables["resize", bucket, len(slots.requests), size]
        state = self._model.exchanged(program, slots.state, old, live)
        requests = [slots.requests[row] for row in rows] + [None] * (size - len(rows))
        return DecodeState(state, np.where(live, slots.done[old], True), requests)


def make_buckets(shapes: Shapes) -> list[Bucket]:
    """Sampling is rarer, and a bucket takes seconds to compile: it has the longest source only."""
    widths = [(beams, False) for beams in shapes.beams] + [(beams, True) for beams in shapes.sampling_beams]
    buckets = []
    for beams, sample in widths:
        for source in shapes.sources[-1:] if sample else shapes.sources:
            name = f"beams{beams}{'-sample' if sample else ''}-{source}"
            cost = (source + shapes.target) * beams
            bucket = Bucket(Kind.DECODE, Generate, name, shapes.rows, cost, source, shapes.target, beams, sample)
            buckets.append(bucket)
    return buckets


def stopped(ids: Sequence[int], options: Options, longest: int) -> bool:
    """Whether the model ended a sequence: not if the end token was forced where the limit is."""
    forced = options.forced_eos_token_id is not None and len(ids) + 1 >= longest
    return bool(ids) and ids[-1] in options.eos_ids and not forced
