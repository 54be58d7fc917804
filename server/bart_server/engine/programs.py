"""The engine's programs, compiled ahead of time and called as such: a shape that nobody foresaw is an error and not a
compilation in the middle of serving.

With several devices the rows are spread over them: a device runs its rows as if it were alone, nothing is exchanged
between them but when rows move.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from bart_inference.devices import ROWS, on_rows
from bart_inference.generation.search import State, begin, decode
from bart_inference.model.transformer import Pairs, prefill, prefill_packed
from bart_inference.tasks.classify import run_classifier
from jax.sharding import Mesh, NamedSharding

from bart_oneliner import Array, Config, Params
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
from bart_server.scheduling.contract import Lane, Request, Task


class Programs:
    """Filled by `work`. example: a request that fills the source of a lane."""

    def __init__(self, mesh: Mesh, weights: Params, config: Config, example: Callable[[Lane], Request]) -> None:
        self._mesh = mesh
        self._rows = NamedSharding(mesh, ROWS)
        self._weights = weights
        self._config = config
        self._example = example
        self.classify: dict[tuple[Lane, int], Any] = {}
        self.prefill: dict[EncoderShape, Any] = {}
        self.blank: dict[tuple[Lane, int], Any] = {}
        self.put: dict[tuple[int, int, EncoderShape], Any] = {}  # source length, size
        self.begin: dict[tuple[Lane, int], Any] = {}
        self.step: dict[tuple[Lane, int], Any] = {}
        self.take: dict[tuple[Lane, int, int], Any] = {}  # lane, from, to

    def work(self, lanes: Sequence[Lane]) -> list[Callable[[], None]]:
        """One piece of work for each program of the lanes; the long ones first."""
        if lanes[0].task is Task.CLASSIFY:
            return [partial(self._compile_classify, lane, size) for lane in lanes for size in lane.sizes]
        steps, others, prefills, puts = [], [], set(), {}
        for lane in lanes:
            for size in lane.sizes:
                steps.append(partial(self._compile_step, lane, size))
                others.append(partial(self._compile_blank, lane, size))
                others.append(partial(self._compile_begin, lane, size))
                for shape in self.encoder_shapes(lane, size):
                    prefills.add(shape)
                    puts[lane.source, size, shape] = partial(self._compile_put, lane, size, shape)  # lanes share it
            for old, new in itertools.permutations(lane.sizes, 2):
                others.append(partial(self._compile_take, lane, old, new))
        return [*steps, *(partial(self._compile_prefill, shape) for shape in sorted(prefills)), *puts.values(), *others]

    def encoder_shapes(self, lane: Lane, size: int) -> list[EncoderShape]:
        """All that sources are encoded in, for a lane's state of `size` rows."""
        return encoder_shapes(lane.source, size // self._mesh.size)

    def _compile_classify(self, lane: Lane, size: int) -> None:
        run = on_rows(
            self._mesh, lambda weights, ids, mask, last: run_classifier(weights, self._config, ids, mask, last)[0]
        )
        ids, mask = self._source_shapes(lane.source, size)
        last = self._shapes(np.zeros((size, 1), np.int32))
        program = jax.jit(run, out_shardings=self._rows)
        self.classify[lane, size] = program.lower(self._weights, ids, mask, last).compile()

    def _compile_prefill(self, shape: EncoderShape) -> None:
        program = jax.jit(on_rows(self._mesh, self._prefill_packed), out_shardings=self._rows)
        ids = self._packed_ids(shape)
        self.prefill[shape] = program.lower(self._weights, ids, ids).compile()

    def _compile_blank(self, lane: Lane, size: int) -> None:
        shapes = self._state_shapes(lane, size)

        def blank() -> State:
            zeros: State = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), shapes)
            return zeros._replace(done=~zeros.done)

        self.blank[lane, size] = jax.jit(blank, out_shardings=self._rows).lower().compile()

    def _compile_put(self, lane: Lane, size: int, shape: EncoderShape) -> None:
        program = jax.jit(on_rows(self._mesh, put_sources, shared=(1, 2)), out_shardings=self._rows, donate_argnums=0)
        ids = self._packed_ids(shape)
        packed = self._shapes(jax.eval_shape(self._prefill_packed, self._weights, ids, ids))
        entries = self._shapes(entries_of([0], [Placed(0, 0, 0)], size, self._mesh.size))
        source = self._state_shapes(lane, size).source
        self.put[lane.source, size, shape] = program.lower(source, packed, ids, entries).compile()

    def _compile_begin(self, lane: Lane, size: int) -> None:
        run = partial(put_beginnings, config=self._config, beams=lane.beams)
        program = jax.jit(on_rows(self._mesh, run, shared=()), out_shardings=self._rows, donate_argnums=0)
        entries = self._shapes(entries_of([0], [beginning(self._example(lane))], size, self._mesh.size))
        rest = self._state_shapes(lane, size)._asdict() | {"source": None}
        self.begin[lane, size] = program.lower(State(**rest), entries).compile()

    def _compile_step(self, lane: Lane, size: int) -> None:
        run = on_rows(
            self._mesh,
            lambda weights, state, steps: decode(weights, self._config, state, steps, lane.sample),
            shared=(0, 2),
        )
        program = jax.jit(run, out_shardings=self._rows, donate_argnums=1)
        steps = jax.ShapeDtypeStruct((), np.int32)
        self.step[lane, size] = program.lower(self._weights, self._state_shapes(lane, size), steps).compile()

    def _compile_take(self, lane: Lane, old: int, new: int) -> None:
        rows, live = jax.ShapeDtypeStruct((new,), np.int32), jax.ShapeDtypeStruct((new,), np.bool_)
        program = jax.jit(take_rows, out_shardings=self._rows)
        self.take[lane, old, new] = program.lower(self._state_shapes(lane, old), rows, live).compile()

    def _prefill_packed(self, weights: Params, ids: Array, positions: Array) -> Pairs:
        return prefill_packed(weights, self._config, ids, positions)

    def _shapes(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._rows), tree)

    def _packed_ids(self, shape: EncoderShape) -> Any:
        return self._shapes(np.zeros((self._mesh.size * shape.rows, shape.length), np.int32))

    def _source_shapes(self, source: int, size: int) -> Any:
        return self._shapes((np.zeros((size, source), np.int32), np.zeros((size, source), np.bool_)))

    def _state_shapes(self, lane: Lane, size: int) -> Any:
        prompts, options = entries_of([0], [beginning(self._example(lane))], size, 1).what
        dtype = self._weights["shared"].dtype

        def run(weights: Params, ids: Array, mask: Array) -> State:
            source = prefill(weights, self._config, ids, mask)
            return begin(self._config, source, jax.numpy.asarray(prompts), options, lane.beams, mask[:, 0], dtype)

        return self._shapes(jax.eval_shape(run, self._weights, *self._source_shapes(lane.source, size)))
