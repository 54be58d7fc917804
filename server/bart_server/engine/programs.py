"""The programs of decoding, compiled ahead of time and called as such: a shape that nobody foresaw is an error and not
a compilation in the middle of serving. Keys in the store:

    ("prefill", EncoderShape)              sources behind each other to keys and values
    ("init", bucket, size)                 a state of free rows
    ("put", source, size, EncoderShape)    keys and values into a state's rows; buckets of one source length share it
    ("begin", bucket, size)                options and prompts into a state's rows
    ("step", bucket, size)                 a chunk of steps
    ("resize", bucket, old, new)           rows of one state as a state of another row count
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from bart_inference.generation.search import State, begin, decode
from bart_inference.model.transformer import Pairs, prefill, prefill_packed

from bart_oneliner import Array, Params
from bart_server.engine.device import DeviceModel
from bart_server.engine.packing import (
    EncoderShape,
    Placed,
    beginning,
    encoder_shapes,
    entries_of,
    put_beginnings,
    put_sources,
    take_rows,
)
from bart_server.engine.store import Program
from bart_server.scheduling.contract import Bucket, Request


class DecodePrograms:
    """example: a request that fills the source of a bucket."""

    def __init__(self, model: DeviceModel, example: Callable[[Bucket], Request]) -> None:
        self._model = model
        self._example = example

    def of(self, bucket: Bucket, size: int, others: Sequence[int]) -> list[Program]:
        """All that a row count needs. others: the row counts that it is resized from and to."""
        shapes = self.encoder_shapes(bucket, size)
        return [
            Program(("step", bucket, size), partial(self._step, bucket, size), long=True),
            *(Program(("prefill", shape), partial(self._prefill, shape), long=True) for shape in shapes),
            *(
                Program(("put", bucket.source, size, shape), partial(self._put, bucket, size, shape))
                for shape in shapes
            ),
            Program(("init", bucket, size), partial(self._init, bucket, size)),
            Program(("begin", bucket, size), partial(self._begin, bucket, size)),
            *(
                Program(("resize", bucket, old, new), partial(self._resize, bucket, old, new))
                for other in others
                for old, new in ((size, other), (other, size))
            ),
        ]

    def encoder_shapes(self, bucket: Bucket, size: int) -> list[EncoderShape]:
        """All that sources are encoded in, for a state of `size` rows."""
        return encoder_shapes(bucket.source, size // self._model.devices)

    def encoded_shapes(self, shape: EncoderShape) -> Pairs:
        """The shapes of what the encoder makes of sources of this shape."""
        ids = self._ids(shape)
        pairs: Pairs = self._model.shapes(jax.eval_shape(self._run_prefill, self._model.weights, ids, ids))
        return pairs

    def _prefill(self, shape: EncoderShape) -> Any:
        ids = self._ids(shape)
        return self._model.compile(self._run_prefill, self._model.weights, ids, ids)

    def _init(self, bucket: Bucket, size: int) -> Any:
        shapes = self._state(bucket, size)

        def init() -> State:
            zeros: State = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), shapes)
            return zeros._replace(done=~zeros.done)

        return jax.jit(init, out_shardings=self._model.rows).lower().compile()

    def _put(self, bucket: Bucket, size: int, shape: EncoderShape) -> Any:
        model = self._model
        entries = model.shapes(entries_of([0], [Placed(0, 0, 0)], size, model.devices))
        source = self._state(bucket, size).source
        arguments = (source, self.encoded_shapes(shape), self._ids(shape), entries)
        return model.compile(put_sources, *arguments, shared=(1, 2), donated=[0])

    def _begin(self, bucket: Bucket, size: int) -> Any:
        model = self._model
        run = partial(put_beginnings, config=model.config, beams=bucket.beams)
        entries = model.shapes(entries_of([0], [beginning(self._example(bucket), bucket)], size, model.devices))
        rest = self._state(bucket, size)._asdict() | {"source": None}
        return model.compile(run, State(**rest), entries, shared=(), donated=[0])

    def _step(self, bucket: Bucket, size: int) -> Any:
        model = self._model

        def run(weights: Params, state: State, steps: Array) -> State:
            return decode(weights, model.config, state, steps, bucket.sample)

        steps = jax.ShapeDtypeStruct((), np.int32)
        return model.compile(run, model.weights, self._state(bucket, size), steps, shared=(0, 2), donated=[1])

    def _resize(self, bucket: Bucket, old: int, new: int) -> Any:
        rows, live = jax.ShapeDtypeStruct((new,), np.int32), jax.ShapeDtypeStruct((new,), np.bool_)
        program = jax.jit(take_rows, out_shardings=self._model.rows)  # rows may come from another device
        return program.lower(self._state(bucket, old), rows, live).compile()

    def _run_prefill(self, weights: Params, ids: Array, positions: Array) -> Pairs:
        return prefill_packed(weights, self._model.config, ids, positions)

    def _ids(self, shape: EncoderShape) -> Any:
        return self._model.shapes(np.zeros((self._model.devices * shape.rows, shape.length), np.int32))

    def _state(self, bucket: Bucket, size: int) -> Any:
        """The shapes of a state."""
        model = self._model
        prompts, options = entries_of([0], [beginning(self._example(bucket), bucket)], size, 1).what
        sources = np.zeros((size, bucket.source), np.int32), np.zeros((size, bucket.source), np.bool_)

        def run(weights: Params, ids: Array, mask: Array) -> State:
            source = prefill(weights, model.config, ids, mask)
            prompt = jax.numpy.asarray(prompts)
            return begin(model.config, source, prompt, options, bucket.beams, mask[:, 0], model.dtype)

        return model.shapes(jax.eval_shape(run, model.weights, *model.shapes(sources)))
