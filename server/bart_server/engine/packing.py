"""Plans which sources are encoded together, and replaces rows of a decoding state. All functions are pure.

To compute less padding, several short sources are put one after another into one row of the encoder's input. The
attention mask keeps them apart: a source attends to itself only. S: source positions, T: target positions, D: devices.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from bart_inference.generation.arrays import OptionArrays
from bart_inference.generation.options import Options
from bart_inference.generation.state import State, init_state
from bart_inference.model.cache import LayerKV
from bart_inference.model.transformer import Source, unpack_source

from bart_oneliner import Array, Config
from bart_server.scheduling.contract import Bucket, Request

Tree = TypeVar("Tree")
# The lengths, in positions, that rows of the encoder's input may have.
ROW_LENGTHS = (32, 64, 96, 112, 128, 192, 256, 384, 512, 768, 1024)
# A longer row holds one source only: if several shared it, computing the attention between different sources, which is
# then masked, would cost more than sharing saves.
MAX_SHARED_LENGTH = 128
# Several rows in one call of the encoder are compiled for this row length and longer ones only. Several shorter rows
# are rarely wanted, because short sources share longer rows.
MIN_LENGTH_OF_SEVERAL_ROWS = 96
MAX_ROWS = 4  # the most rows that a device encodes in one call


class EncoderShape(NamedTuple):
    """The shape of one call of the encoder. rows: on each device. length: positions of each row."""

    rows: int
    length: int


class PackedSource(NamedTuple):
    """Where a source goes in a row. source: its index in the list of sources. start: its first position in the row."""

    source: int
    start: int


class EncoderBatch(NamedTuple):
    """One call of the encoder. rows: for each row, of all devices one after another, the sources in it."""

    shape: EncoderShape
    rows: list[list[PackedSource]]


class Payload(NamedTuple):
    """What a generation keeps in Request.payload: its options with all defaults, and the same as arrays of one row."""

    options: Options
    arrays: OptionArrays


class EncodedSource(NamedTuple):
    """Where a source is in the encoder's result: its row, first position and number of positions."""

    row: int | Array
    start: int | Array
    length: int | Array


class RowUpdates(NamedTuple):
    """New contents for some rows of a state that has n·D rows, n on each of D devices.

    Every device has n entries and applies the first `used` of them. An entry replaces one row.
    """

    used: Array  # (D,) int32
    rows: Array  # (D·n,) int32: the row that an entry replaces, counted on its device from 0
    values: Any  # a tree of arrays (D·n,…)


def encoder_shapes(longest: int, rows: int) -> list[EncoderShape]:
    """Every shape that `pack_sources` can choose for up to `rows` sources a device, each of up to `longest` tokens."""
    longest_row = max(longest, min(MAX_SHARED_LENGTH, longest * rows))  # of one source, or of several that share it
    lengths = [length for length in ROW_LENGTHS if length < longest_row]
    lengths.append(min((length for length in ROW_LENGTHS if length >= longest_row), default=longest_row))
    shapes = [EncoderShape(1, length) for length in lengths]
    if MAX_SHARED_LENGTH in lengths:  # otherwise a single row holds all sources
        for count in range(2, min(rows, MAX_ROWS) + 1):
            for length in lengths:
                if MIN_LENGTH_OF_SEVERAL_ROWS <= length <= MAX_SHARED_LENGTH:
                    shapes.append(EncoderShape(count, length))
    return shapes


def pack_sources(lengths: Sequence[int], shapes: Sequence[EncoderShape], devices: int = 1) -> list[EncoderBatch]:
    """The calls of the encoder for sources of these lengths.

    shapes: those that may be used, ascending; one of them has a single row with room for the longest source. Rows that
    several sources share get the length that leaves the fewest positions empty; of equally good ones, the longest. A
    source of more than MAX_SHARED_LENGTH tokens gets a row of its own.
    """
    row_lengths = [length for count, length in shapes if count == 1]
    row_length = shared_row_length(lengths, shapes, devices)
    rows = share_rows(lengths, row_length)
    batches = []
    while rows:
        tokens = tokens_of(rows[0], lengths)
        if tokens > MAX_SHARED_LENGTH or len(rows) <= devices:
            shape = EncoderShape(1, next(length for length in row_lengths if length >= tokens))
        else:
            needed = -(-len(rows) // devices)
            counts = [count for count, length in shapes if length == row_length]
            shape = EncoderShape(max(count for count in counts if count <= needed), row_length)
        batch, rows = rows[: shape.rows * devices], rows[shape.rows * devices :]
        batches.append(EncoderBatch(shape, [placed(row, lengths) for row in batch]))
    return batches


def shared_row_length(lengths: Sequence[int], shapes: Sequence[EncoderShape], devices: int) -> int:
    """The best length of rows that several sources share, in positions.

    If no shape has a row of at most MAX_SHARED_LENGTH positions, this is the shortest row of any shape.
    """
    longest = max((length for length in lengths if length <= MAX_SHARED_LENGTH), default=0)
    row_lengths = [length for count, length in shapes if count == 1 and length >= longest]
    candidates = [length for length in row_lengths if length <= MAX_SHARED_LENGTH]
    if not candidates:
        return row_lengths[0]

    def positions(row_length: int) -> float:
        """Positions, padding included, that each device computes at this row length.

        Infinite if several rows are needed and no shape has two of this length.
        """
        shared = [row for row in share_rows(lengths, row_length) if tokens_of(row, lengths) <= MAX_SHARED_LENGTH]
        rows = -(-len(shared) // devices)
        return rows * row_length if rows <= 1 or (2, row_length) in shapes else math.inf

    return min(reversed(candidates), key=positions)


def share_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Distributes sources over rows by first-fit decreasing.

    Returns the indexes of each row's sources, fullest row first. A source that is longer than a row gets a row of its
    own.
    """
    rows: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        for row in rows:
            if tokens_of(row, lengths) + lengths[index] <= row_length:
                row.append(index)
                break
        else:
            rows.append([index])
    return sorted(rows, key=lambda row: tokens_of(row, lengths), reverse=True)


def tokens_of(row: Sequence[int], lengths: Sequence[int]) -> int:
    """The number of tokens of all sources in a row."""
    return sum(lengths[index] for index in row)


def placed(row: Sequence[int], lengths: Sequence[int]) -> list[PackedSource]:
    """The sources of a row with their first positions, one after another without gaps."""
    sources, start = [], 0
    for index in row:
        sources.append(PackedSource(index, start))
        start += lengths[index]
    return sources


def first_tokens(request: Request, bucket: Bucket) -> tuple[np.ndarray, OptionArrays]:
    """A request's decoder tokens (T,), the start token and then padding, and its options without the row axis."""
    payload: Payload = request.payload
    prompt = np.full(bucket.target, payload.options.pad_id, np.int32)
    prompt[0] = payload.options.start_id
    return prompt, jax.tree.map(lambda column: column[0], payload.arrays)


def row_updates(rows: Sequence[int], values: Sequence[Any], size: int, devices: int) -> RowUpdates:
    """The updates, as numpy arrays, that put `values` into `rows` of a state of `size` rows.

    values: for each row a tree of arrays or numbers; all trees have the same structure and shapes.
    """
    rows_of_device = size // devices
    used = np.zeros(devices, np.int32)
    target = np.zeros(size, np.int32)
    columns: Any = jax.tree.map(lambda x: np.zeros((size, *np.shape(x)), np.asarray(x).dtype), values[0])
    leaves = jax.tree.leaves(columns)
    for row, value in zip(rows, values, strict=True):
        device, target_row = divmod(row, rows_of_device)
        entry = device * rows_of_device + used[device]
        used[device] += 1
        target[entry] = target_row
        for column, leaf in zip(leaves, jax.tree.leaves(value), strict=True):
            column[entry] = leaf
    numpy_arrays: list[Any] = [used, target, columns]  # RowUpdates is declared with the jax arrays that programs see
    return RowUpdates(*numpy_arrays)


def update_rows(tree: Tree, updates: RowUpdates, make_row: Callable[[Any], Tree]) -> Tree:
    """One device's `tree` with rows replaced.

    make_row: makes a tree like `tree`, but of one row, from an entry's value.
    """

    def update(entry: Array, tree: Tree) -> Tree:
        row = make_row(jax.tree.map(lambda x: x[entry], updates.values))
        index = updates.rows[entry]

        def replace(old: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(old, new, index, 0)

        changed: Tree = jax.tree.map(replace, tree, row)
        return changed

    result: Tree = jax.lax.fori_loop(0, updates.used[0], update, tree)
    return result


def insert_sources(source: Source, encoded: list[LayerKV], input_ids: Array, updates: RowUpdates) -> Source:
    """One device's sources, some of them replaced by sources from the encoder's result.

    updates: their values are EncodedSource. encoded, input_ids: the encoder's results and inputs on all devices, since
    a source may have been encoded on another one.
    """
    S = source.mask.shape[1]

    def make_row(place: EncodedSource) -> Source:
        row, start, length = (jnp.asarray(number) for number in place)
        return unpack_source(encoded, input_ids, row, start, length, S)

    return update_rows(source, updates, make_row)


def begin_rows(state: State, updates: RowUpdates, config: Config, beams: int) -> State:
    """One device's state, without its sources, with some rows set to the state before their first step.

    Nothing of the rows' old contents is left. updates: their values are what `first_tokens` returns.
    """
    dtype = state.cache.self_kv[0][0].dtype

    def make_row(value: tuple[Array, OptionArrays]) -> State:
        prompts, options = jax.tree.map(lambda x: x[None], value)
        return init_state(config, state.source, prompts, options, beams, jnp.zeros(1, bool), dtype)

    return update_rows(state, updates, make_row)


def without_source(state: State) -> State:
    """The state as `begin_rows` takes it, which does not use the sources. They are large, so its program has none."""
    absent: Any = None
    return state._replace(source=absent)


def take_rows(state: State, rows: Array, live: Array) -> State:
    """A state that consists of these rows (n,) of `state`. Where live (n,) is false, the row is marked as done."""
    taken: State = jax.tree.map(lambda leaf: leaf[rows], state)
    return taken._replace(done=taken.done | ~live)
