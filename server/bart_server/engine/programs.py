"""Compiles the programs of decoding ahead of time, so that no request waits for a compilation.

Their keys in the engine's store of programs, and what they do. size, old, new: row counts of a decoding state. source:
the source length of a bucket; all buckets of this length share the program.

    ("prefill", EncoderShape)                 encodes sources; returns the keys and values of cross-attention
    ("init", StateShape, size)                makes a decoding state whose rows are all done
    ("insert", source, size, EncoderShape)    copies keys and values of cross-attention into rows of a state
    ("begin", StateShape, size)               sets rows of a state to their first token and their options
    ("step", bucket, size)                    runs a chunk of decoding steps
    ("resize", StateShape, old, new)          makes a state of `new` rows from some rows of a state of `old` rows
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from bart_inference.generation.search import decode
from bart_inference.generation.state import State, init_state
from bart_inference.model.cache import LayerKV
from bart_inference.model.transformer import prefill, prefill_packed

from bart_oneliner import Array, Params
from bart_server.engine.device import DeviceModel
from bart_server.engine.packing import (
    EncodedSource,
    EncoderShape,
    begin_rows,
    encoder_shapes,
    first_tokens,
    insert_sources,
    row_updates,
    take_rows,
    without_source,
)
from bart_server.engine.store import Program
from bart_server.scheduling.contract import Bucket, Request


class StateShape(NamedTuple):
    """What the shapes of a decoding state depend on besides its row count. Sampling does not change them."""

    source: int
    target: int
    beams: int


def state_shape(bucket: Bucket) -> StateShape:
    return StateShape(bucket.source, bucket.target, bucket.beams)


class DecodePrograms:
    """Describes and compiles the programs of decoding.

    example: makes a request of a bucket, of which only the shapes of its options are used.
    """

    def __init__(self, model: DeviceModel, example: Callable[[Bucket], Request]) -> None:
        self._model = model
        self._example = example
        self._states: dict[tuple[StateShape, int], Any] = {}  # a cache for `_state`: tracing takes 0.1 s

    def of(self, bucket: Bucket, size: int, others: Sequence[int]) -> list[Program]:
        """The programs of a row count that any request of the bucket can run with.

        others: the row counts that a batch is resized from and to. Of the encoder's shapes only that of one longest
        row, which holds every source, is among them; `encoder` describes the programs of the others.
        """
        programs = [
            Program(("step", bucket, size), partial(self._step, bucket, size), uses_weights=True),
        ]
        programs += self.encoder(bucket, size, self.longest_row(bucket, size))
        for other in others:
            for old, new in ((size, other), (other, size)):
                programs.append(
                    Program(("resize", state_shape(bucket), old, new), partial(self._resize, bucket, old, new))
                )
        return programs

    def encoder(self, bucket: Bucket, size: int, shape: EncoderShape) -> list[Program]:
        """The programs that encode sources in an encoder shape and put them into a new state of `size` rows."""
        insert = partial(self._insert, bucket, size, shape)
        return [
            Program(("init", state_shape(bucket), size), partial(self._init, bucket, size)),
            Program(("begin", state_shape(bucket), size), partial(self._begin, bucket, size)),
            Program(("prefill", shape), partial(self._prefill, shape), uses_weights=True),
            Program(("insert", bucket.source, size, shape), insert),
        ]

    def longest_row(self, bucket: Bucket, size: int) -> EncoderShape:
        """The encoder shape of one row that holds any of the bucket's sources."""
        return max(shape for shape in self.encoder_shapes(bucket, size) if shape.rows == 1)

    def encoder_shapes(self, bucket: Bucket, size: int) -> list[EncoderShape]:
        """Every shape in which sources are encoded for a state of `size` rows."""
        return encoder_shapes(bucket.source, size // self._model.devices)

    def _prefill(self, shape: EncoderShape) -> Any:
        ids = self._ids(shape)
        return self._model.compile(self._run_prefill, self._model.weights, ids, ids)

    def _init(self, bucket: Bucket, size: int) -> Any:
        shapes = self._state(bucket, size)

        def init() -> State:
            zeros: State = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), shapes)
            return zeros._replace(done=~zeros.done)

        return jax.jit(init, out_shardings=self._model.rows).lower().compile()

    def _insert(self, bucket: Bucket, size: int, shape: EncoderShape) -> Any:
        model = self._model
        updates = model.shapes(row_updates([0], [EncodedSource(0, 0, 0)], size, model.devices))
        source = self._state(bucket, size).source
        ids = self._ids(shape)
        encoded = model.shapes(jax.eval_shape(self._run_prefill, model.weights, ids, ids))
        return model.compile(insert_sources, source, encoded, ids, updates, shared=(1, 2), donated=[0])

    def _begin(self, bucket: Bucket, size: int) -> Any:
        model = self._model
        run = partial(begin_rows, config=model.config, beams=bucket.beams)
        value = first_tokens(self._example(bucket), bucket)
        updates = model.shapes(row_updates([0], [value], size, model.devices))
        state = without_source(self._state(bucket, size))
        return model.compile(run, state, updates, shared=(), donated=[0])

    def _step(self, bucket: Bucket, size: int) -> Any:
        model = self._model

        def run(weights: Params, state: State, steps: Array) -> State:
            decoded: State = decode(weights, model.config, state, steps, bucket.sample)
            return decoded

        steps = jax.ShapeDtypeStruct((), np.int32)
        return model.compile(run, model.weights, self._state(bucket, size), steps, shared=(0, 2), donated=[1])

    def _resize(self, bucket: Bucket, old: int, new: int) -> Any:
        rows = jax.ShapeDtypeStruct((new,), np.int32)
        live = jax.ShapeDtypeStruct((new,), np.bool_)
        program = jax.jit(take_rows, out_shardings=self._model.rows)  # a row may move to another device
        return program.lower(self._state(bucket, old), rows, live).compile()

    def _run_prefill(self, weights: Params, ids: Array, positions: Array) -> list[LayerKV]:
        return prefill_packed(weights, self._model.config, ids, positions)

    def _ids(self, shape: EncoderShape) -> Any:
        """The shapes of the encoder's token ids, and of their positions, on all devices."""
        return self._model.shapes(np.zeros((self._model.devices * shape.rows, shape.length), np.int32))

    def _state(self, bucket: Bucket, size: int) -> Any:
        """The shapes of a decoding state of `size` rows."""
        key = (state_shape(bucket), size)
        shapes = self._states.get(key)
        if shapes is None:
            shapes = self._states[key] = self._trace_state(bucket, size)
        return shapes

    def _trace_state(self, bucket: Bucket, size: int) -> Any:
        """Finds the shapes of a state by tracing how it is made; nothing is computed."""
        model = self._model
        value = first_tokens(self._example(bucket), bucket)
        prompts, options = row_updates([0], [value], size, 1).values
        ids = np.zeros((size, bucket.source), np.int32)
        mask = np.zeros((size, bucket.source), np.bool_)

        def run(weights: Params, ids: Array, mask: Array) -> State:
            source = prefill(weights, model.config, ids, mask)
            prompt = jax.numpy.asarray(prompts)
            return init_state(model.config, source, prompt, options, bucket.beams, mask[:, 0], model.cache_dtype)

        return model.shapes(jax.eval_shape(run, model.weights, model.shapes(ids), model.shapes(mask)))
