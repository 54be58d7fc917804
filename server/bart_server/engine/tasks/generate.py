"""Generates sequences from a source by greedy search, sampling or beam search.

A running batch is a DecodeState: bart_inference's State on the device and, on the host, the request in each row. `size`
is always the row count of a batch.
"""

import dataclasses
import logging
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from bart_inference import OptionError, Options
from bart_inference.generation.arrays import OptionArrays, pack_options
from bart_inference.generation.options import resolve
from bart_inference.generation.state import State
from bart_inference.generation.stream import final_tokens
from bart_inference.model.cache import LayerKV

from bart_server.engine.device import DeviceModel
from bart_server.engine.packing import (
    EncodedSource,
    EncoderBatch,
    EncoderShape,
    PackedSource,
    Payload,
    first_tokens,
    pack_sources,
    row_updates,
    without_source,
)
from bart_server.engine.programs import DecodePrograms, state_shape
from bart_server.engine.shapes import Shapes
from bart_server.engine.store import Shape, Store
from bart_server.engine.tasks.classify import HEAD
from bart_server.scheduling.contract import Bucket, Hypothesis, Kind, Open, Request, best
from bart_server.scheduling.errors import InvalidArgument
from bart_server.scheduling.tasks import Generate

log = logging.getLogger(__name__)
MAX_CACHED_OPTIONS = 256  # requests often repeat their options; the prepared form of this many sets is kept
MAX_KEY_LENGTH = 1000  # characters of a set of options as text; longer ones are not cached, since they take much memory


@dataclasses.dataclass
class DecodeState:
    """A running batch. done: the state's flags (B,), on the host. requests: that of each row, None for a free row."""

    state: State
    done: np.ndarray
    requests: list[Request | None]


class EncodedBatch(NamedTuple):
    """A call of the encoder, with its token ids (B,S) and its result, the keys and values of cross-attention."""

    batch: EncoderBatch
    ids: np.ndarray
    cross_kv: list[LayerKV]


class Encoded(NamedTuple):
    """What `encode` returns: the requests that it encoded, and its calls of the encoder."""

    requests: list[Request]
    batches: list[EncodedBatch]


class ResolvedOptions(NamedTuple):
    """A request's options, with the checkpoint's defaults for those that it does not set.

    longest: the most tokens of an answer with these options. arrays: the options as arrays with one row, for the first
    of the samples that they ask for.
    """

    options: Options
    longest: int
    arrays: OptionArrays


class Generation:
    """The task Generate: makes requests from a caller's options, and decodes them as a contract.Decode.

    executables: the store of compiled programs. The method `shapes` says what the store is to compile.
    """

    def __init__(self, model: DeviceModel, shapes: Shapes, executables: Store) -> None:
        self._model = model
        self._executables = executables
        self._target = shapes.target
        self.buckets = make_buckets(shapes)
        self._programs = DecodePrograms(model, self._example)
        self._resolved: dict[str, ResolvedOptions] = {}
        self._encoded_shapes: dict[EncoderShape, Any] = {}  # the shapes of the encoder's result, by encoder shape
        compiled = [(bucket.beams, bucket.sample) for bucket in self.buckets]
        if (model.default.num_beams, model.default.do_sample) not in compiled:
            width = model.default.num_beams
            log.warning(
                "the checkpoint's default beam width %d is not compiled: calls without options are refused", width
            )

    @classmethod
    def of(cls, model: DeviceModel, shapes: Shapes, executables: Store) -> "Generation | None":
        return None if HEAD in model.weights else cls(model, shapes, executables)

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def requests(self, task_input: Generate, available: Open) -> list[Request]:
        resolved = self._resolve(task_input.options)
        options = resolved.options
        source = tuple(task_input.source)
        buckets = self._buckets(len(source), options)
        bucket = best(buckets, available) or buckets[0]
        if resolved.longest > bucket.target:
            name = "max_length" if options.max_new_tokens is None else "max_new_tokens"
            limit = f"start token included, at most {bucket.target}"
            raise InvalidArgument(f"options.{name}", f"asks for {resolved.longest} tokens, {limit}")
        samples = options.num_return_sequences if options.num_beams == 1 else 1
        if samples > bucket.sizes[-1]:
            limit = f"at most {bucket.sizes[-1]} run at once"
            raise InvalidArgument("options.num_return_sequences", f"{samples} samples, {limit}")
        changed: dict[str, Any] = {}
        if options.do_sample and "seed" not in task_input.options:
            changed["seed"] = np.full(1, secrets.randbits(32), np.uint32)
        cost = (bucket.source + resolved.longest) * bucket.beams
        requests = []
        for sample in range(samples):
            changed["sample_index"] = np.full(1, sample, np.uint32)
            payload = Payload(options, resolved.arrays._replace(**changed))
            requests.append(Request(source, buckets, cost, payload, task_input.stream))
        return requests

    def _resolve(self, options: Mapping[str, Any]) -> ResolvedOptions:
        """Fills in the checkpoint's defaults. Raises InvalidArgument.

        Results are cached: most requests have the same few sets of options, and this takes longer than the rest of
        `requests`.
        """
        key = repr(sorted(options.items()))
        cached = self._resolved.get(key)
        if cached is not None:
            return cached
        config = self._model.config
        try:
            [row] = resolve(self._model.generation, config, options, None, 1)
            _, longest = row.lengths(1, config)
        except OptionError as error:
            raise InvalidArgument(f"options.{error.option}", str(error).removeprefix(f"{error.option} ")) from None
        resolved = ResolvedOptions(row, longest, pack_options([row], config, self._target, [1], [0]))
        if len(key) <= MAX_KEY_LENGTH:
            if len(self._resolved) >= MAX_CACHED_OPTIONS:
                self._resolved.clear()
            self._resolved[key] = resolved
        return resolved

    def _buckets(self, length: int, options: Options) -> tuple[Bucket, ...]:
        """The buckets of these options that can hold a source of this length, the shortest source first."""
        width = (options.num_beams, options.do_sample)
        buckets = []
        for bucket in self.buckets:
            if (bucket.beams, bucket.sample) == width and bucket.source >= length:
                buckets.append(bucket)
        if not buckets:
            widths = sorted({bucket.beams for bucket in self.buckets if bucket.sample == options.do_sample})
            name = "sampling widths" if options.do_sample else "widths"
            description = f"{options.num_beams} is not one of the compiled {name} {widths}"
            raise InvalidArgument("options.num_beams", description)
        return tuple(buckets)

    # ── programs ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def shapes(self, bucket: Bucket, size: int, others: Sequence[int]) -> list[Shape]:
        programs = self._programs.of(bucket, size, others)
        shapes = [Shape(bucket, size, programs, partial(self._warm_up, bucket, size))]
        longest = self._programs.longest_row(bucket, size)
        for encoder in self._programs.encoder_shapes(bucket, size):
            if encoder != longest:
                programs = self._programs.encoder(bucket, size, encoder)
                warm_up = partial(self._warm_up_encoder, bucket, size, encoder)
                shapes.append(Shape(bucket, size, programs, warm_up, encoder=encoder))
        return shapes

    def _warm_up(self, bucket: Bucket, size: int) -> None:
        """Runs the programs of a row count once. Raises FloatingPointError if the model computes NaN."""
        state = self._warm_up_encoder(bucket, size, self._programs.longest_row(bucket, size))
        state, _ = self.step(bucket, state, 1)
        if np.isnan(np.asarray(state.state.score)).any():
            raise FloatingPointError(f"the model computes NaN in {bucket.name}: its weights are not finite")
        self.prefix(bucket, state, [0])
        self.results(bucket, state, [0])
        self.free(bucket, state, [0])

    def _warm_up_encoder(self, bucket: Bucket, size: int, shape: EncoderShape) -> DecodeState:
        """Encodes an example and inserts it into a new state.

        The encoder runs only the first time for each encoder shape, since long rows take seconds; after that, zeros are
        inserted in place of its result.
        """
        request = self._example(bucket)
        request = dataclasses.replace(request, source=request.source[: shape.length])
        batch = EncoderBatch(shape, [[PackedSource(0, 0)]])
        cross_kv_shapes = self._encoded_shapes.get(shape)
        if cross_kv_shapes is None:
            encoded = self._encode([request], [batch])
            self._encoded_shapes[shape] = self._model.shapes(encoded.batches[0].cross_kv)
        else:
            ids = np.zeros((self._model.devices * shape.rows, shape.length), np.int32)
            encoded = Encoded([request], [EncodedBatch(batch, ids, self._model.zeros(cross_kv_shapes))])
        return self.insert(bucket, self.init(bucket, size), encoded, [0])

    def _example(self, bucket: Bucket) -> Request:
        """A request whose source is as long as the bucket allows."""
        options = {"num_beams": bucket.beams, "do_sample": bucket.sample}
        return self.requests(Generate([self._model.config.eos_token_id] * bucket.source, options), {})[0]

    # ── decoding ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def init(self, bucket: Bucket, size: int) -> DecodeState:
        return DecodeState(
            self._executables["init", state_shape(bucket), size](), np.ones(size, np.bool_), [None] * size
        )

    def encode(self, bucket: Bucket, size: int, requests: Sequence[Request]) -> Encoded:
        lengths = [len(request.source) for request in requests]
        shapes = self._open_encoders(bucket, size)
        return self._encode(requests, pack_sources(lengths, shapes, self._model.devices))

    def oversized(self, bucket: Bucket, size: int, rows: int, requests: Sequence[Request]) -> int:
        count = self._executables.oversized(bucket, size, rows, requests)
        shapes = self._programs.encoder_shapes(bucket, size)
        open_shapes = self._open_encoders(bucket, size)
        if count or len(open_shapes) == len(shapes):
            return count
        lengths = [len(request.source) for request in requests]
        for batch in pack_sources(lengths, shapes, self._model.devices):
            if batch.shape not in open_shapes:
                self._executables.ask(bucket, size, batch.shape)
                count += sum(len(row) for row in batch.rows)
        return count

    def _open_encoders(self, bucket: Bucket, size: int) -> list[EncoderShape]:
        """The encoder shapes that are open for this row count.

        The shape of one row that holds any source of the bucket is always among them, because the row count itself
        opens only when the programs of that shape are compiled and have run.
        """
        longest = self._programs.longest_row(bucket, size)
        shapes = []
        for shape in self._programs.encoder_shapes(bucket, size):
            if shape == longest or self._executables.has_encoder(bucket, size, shape):
                shapes.append(shape)
        return shapes

    def _encode(self, requests: Sequence[Request], batches: Sequence[EncoderBatch]) -> Encoded:
        """Calls the encoder once for each batch. batches: which of the requests' sources go where."""
        encoded = []
        for batch in batches:
            ids = np.zeros((self._model.devices * batch.shape.rows, batch.shape.length), np.int32)
            positions = np.zeros_like(ids)
            for row, sources in enumerate(batch.rows):
                for index, start in sources:
                    tokens = requests[index].source
                    end = start + len(tokens)
                    ids[row, start:end] = tokens
                    positions[row, start:end] = range(len(tokens))
            program = self._executables["prefill", batch.shape]
            encoded.append(EncodedBatch(batch, ids, program(ids, positions)))
        # jax raises a device's error when the result is used. Waiting for it here raises the encoder's errors here.
        return Encoded(list(requests), jax.block_until_ready(encoded))

    def insert(self, bucket: Bucket, slots: DecodeState, encoded: Encoded, rows: Sequence[int]) -> DecodeState:
        size, devices = len(slots.requests), self._model.devices
        source = slots.state.source
        for batch, ids, cross_kv in encoded.batches:
            targets, places = [], []
            for encoded_row, sources in enumerate(batch.rows):
                for index, start in sources:
                    targets.append(rows[index])
                    places.append(EncodedSource(encoded_row, start, len(encoded.requests[index].source)))
            program = self._executables["insert", bucket.source, size, batch.shape]
            updates = row_updates(targets, places, size, devices)
            source = self._model.exchanged(program, source, cross_kv, ids, updates)
        values = [first_tokens(request, bucket) for request in encoded.requests]
        begin = self._executables["begin", state_shape(bucket), size]
        state: State = begin(without_source(slots.state), row_updates(rows, values, size, devices))
        done, requests = slots.done.copy(), list(slots.requests)
        for row, request in zip(rows, encoded.requests, strict=True):
            done[row] = False
            requests[row] = request
        return DecodeState(state._replace(source=source), done, requests)

    def step(self, bucket: Bucket, slots: DecodeState, steps: int) -> tuple[DecodeState, list[int]]:
        program = self._executables["step", bucket, len(slots.requests)]
        state = program(slots.state, np.int32(steps))
        done = np.array(state.done)
        finished = [row for row, request in enumerate(slots.requests) if request and done[row]]
        return DecodeState(state, done, slots.requests), finished

    def prefix(self, bucket: Bucket, slots: DecodeState, rows: Sequence[int]) -> list[tuple[int, ...]]:
        state = slots.state
        if bucket.beams == 1:
            tokens, length = jax.device_get((state.tokens, state.length))
            return [tuple(tokens[row, 0, 1 : length[row]].tolist()) for row in rows]
        fields = ("tokens", "length", "score", "done", "finished")  # those that final_tokens uses
        on_host = state._replace(**{name: jax.device_get(getattr(state, name)) for name in fields})
        return [tuple(final_tokens(on_host, row)[1:]) for row in rows]

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
            payload: Payload = request.payload
            _, longest = payload.options.lengths(1, self._model.config)
            hypotheses = []
            for beam in range(payload.options.num_return_sequences if bucket.beams > 1 else 1):
                ids = tuple(tokens[row, beam, 1 : lengths[row, beam]].tolist())
                score = float(scores[row, beam])
                if bucket.beams == 1:
                    score /= float(payload.arrays.length_norm[0, max(len(ids), 1)])
                hypotheses.append(Hypothesis(ids, score, stopped(ids, payload.options, longest)))
            answers.append(tuple(hypotheses))
        return answers

    def free(self, bucket: Bucket, slots: DecodeState, rows: Sequence[int]) -> DecodeState:
        requests = [None if row in rows else request for row, request in enumerate(slots.requests)]
        if slots.done[list(rows)].all():  # the device already has the rows marked as done
            return DecodeState(slots.state, slots.done, requests)
        done = slots.done.copy()
        done[list(rows)] = True
        state = slots.state._replace(done=jax.device_put(done, self._model.rows))
        return DecodeState(state, done, requests)

    def resize(self, bucket: Bucket, slots: DecodeState, rows: Sequence[int], size: int) -> DecodeState:
        old = np.zeros(size, np.int32)
        old[: len(rows)] = rows
        live = np.arange(size) < len(rows)
        program = self._executables["resize", state_shape(bucket), len(slots.requests), size]
        state = self._model.exchanged(program, slots.state, old, live)
        requests = [slots.requests[row] for row in rows] + [None] * (size - len(rows))
        return DecodeState(state, np.where(live, slots.done[old], True), requests)


def make_buckets(shapes: Shapes) -> list[Bucket]:
    """The shape buckets for each beam width and source length.

    Sampling has a bucket for the longest source only: it is used less often, and a bucket takes seconds to compile.
    """
    buckets = []
    for sample, widths in ((False, shapes.beams), (True, shapes.sampling_beams)):
        sources = shapes.sources[-1:] if sample else shapes.sources
        for beams in widths:
            for source in sources:
                name = f"beams{beams}{'-sample' if sample else ''}-{source}"
                cost = (source + shapes.target) * beams
                bucket = Bucket(Kind.DECODE, Generate, name, shapes.rows, cost, source, shapes.target, beams, sample)
                buckets.append(bucket)
    return buckets


def stopped(ids: Sequence[int], options: Options, longest: int) -> bool:
    """Whether the model ended a sequence by itself: False if the length limit ended it or forced the end token."""
    forced = options.forced_eos_token_id is not None and len(ids) + 1 >= longest
    return bool(ids) and ids[-1] in options.eos_ids and not forced
