"""Which sources are encoded together, and how rows move between states: pure functions of the engine."""

import itertools
from collections.abc import Sequence

import jax
from bart_inference.buckets import LENGTHS
from bart_inference.decoding import State
from bart_inference.transformer import Source


def lengths(longest: int) -> list[int]:
    """The lengths to encode at for a lane of sources up to `longest`."""
    return [*(length for length in LENGTHS if length < longest), longest]


def powers_of_four(most: int, devices: int) -> list[int]:
    """Row counts up to `most` that make up any count of rows in a few pieces, for each device as many."""
    return [devices * 4**n for n in range(((most // devices).bit_length() + 1) // 2)]


def pieces(sources: Sequence[int], lengths: Sequence[int], counts: Sequence[int]) -> list[tuple[int, int, list[int]]]:
    """How to encode sources of these lengths: (compiled length, compiled count, indices of the sources in it).

    Sources of one compiled length go together, as many as fill a compiled count; fewer than the smallest leave it part
    empty.
    """
    found = []
    fit = lambda row: next(length for length in lengths if length >= sources[row])
    for length, group in itertools.groupby(sorted(range(len(sources)), key=fit), fit):
        rows = list(group)
        while rows:
            count = max((n for n in counts if n <= len(rows)), default=counts[0])
            found.append((length, count, rows[:count]))
            rows = rows[count:]
    return found


def empty_source(shapes: Source) -> Source:
    """Rows that hold nothing, every position masked."""
    blank = jax.tree.map(lambda shape: jax.numpy.zeros(shape.shape, shape.dtype), shapes)
    return blank._replace(input_ids=blank.input_ids - 1)


def place_rows(source: Source, encoded: Source, rows: jax.Array) -> Source:
    """`source` with its rows (b,) replaced by b encoded ones, which may be shorter; a row beyond the end is dropped."""

    def put(old: jax.Array, new: jax.Array, filler: int = 0) -> jax.Array:
        more = [(0, 0), *((0, have - given) for have, given in zip(old.shape[1:], new.shape[1:], strict=True))]
        return old.at[rows].set(jax.numpy.pad(new, more, constant_values=filler), mode="drop")

    placed = jax.tree.map(put, source, encoded)
    return placed._replace(input_ids=put(source.input_ids, encoded.input_ids, -1))


def insert_rows(state: State, fresh: State, rows: jax.Array) -> State:
    """`state` with its rows (b,) replaced by those of `fresh` (b rows); a row beyond the end is dropped."""
    return jax.tree.map(lambda old, new: old.at[rows].set(new, mode="drop"), state, fresh)


def take_rows(state: State, rows: jax.Array, live: jax.Array) -> State:
    """The given rows (b,) of a state as a state of b rows; those that are not `live` (b,) are free."""
    taken = jax.tree.map(lambda leaf: leaf[rows], state)
    return taken._replace(done=taken.done | ~live)
