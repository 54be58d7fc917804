"""Which sources are encoded together, and how rows of a decoding state are replaced: pure functions of the engine.

Sources are packed: several short ones lie behind each other in one row of the encoder's input, and each attends to
itself only. B: rows, S: source positions, T: target positions, D: devices.
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
ROW_LENGTHS = (32, 64, 96, 112, 128, 192, 256, 384, 512, 768, 1024)  # positions of a packed row
# Sources share a row of at most this many positions. In longer rows the attention that is computed across sources, and
# masked, costs more than sharing saves.
MAX_SHARED_LENGTH = 128
# A device encodes several rows in one call, up to MAX_ROWS, if they are at least this long. Shorter rows are rare:
# sources that are so short are packed into longer rows.
MIN_LENGTH_OF_SEVERAL_ROWS = 96
MAX_ROWS = 4


class EncoderShape(NamedTuple):
    """What the encoder is compiled for: rows on each device, and positions of a row."""

    rows: int
    length: int


class PackedSource(NamedTuple):
    """One source's place in a packed row: its number in the call's list of sources, and its first position."""

    source: int
    start: int


class EncoderBatch(NamedTuple):
    """One call of the encoder. rows: the sources in each row, over all devices."""

    shape: EncoderShape
    rows: list[list[PackedSource]]


class Payload(NamedTuple):
    """Request.payload of a generation: the resolved options, and the same as arrays with one row."""

    options: Options
    arrays: OptionArrays


class EncodedSource(NamedTuple):
    """Where a source lies in the encoder's result: row, first position and number of positions."""

    row: int | Array
    start: int | Array
    length: int | Array


class RowUpdates(NamedTuple):
    """New contents for rows of a state whose n·D rows are spread over D devices; each device sees its own part.

    A device has n entries, of which the first `used` count.
    """

    used: Array  # (D,) int32
    rows: Array  # (D·n,) int32: the row of the device that an entry replaces
    values: Any  # a tree of arrays (D·n,…)


def encoder_shapes(longest: int, rows: int) -> list[EncoderShape]:
    """Every shape that `pack_sources` can choose for up to `rows` sources a device, each of up to `longest` tokens."""
    longest_row = max(longest, min(MAX_SHARED_LENGTH, longest * rows))
    lengths = [length for length in ROW_LENGTHS if length < longest_row]
    lengths.append(min((length for length in ROW_LENGTHS if length >= longest_row), default=longest_row))
    shapes = [EncoderShape(1, length) for length in lengths]
    if MAX_SHARED_LENGTH in lengths:
        for count in range(2, min(rows, MAX_ROWS) + 1):
            for length in lengths:
                if MIN_LENGTH_OF_SEVERAL_ROWS <= length <= MAX_SHARED_LENGTH:
                    shapes.append(EncoderShape(count, length))
    return shapes


def pack_sources(lengths: Sequence[int], shapes: Sequence[EncoderShape], devices: int = 1) -> list[EncoderBatch]:
    """The calls of the encoder for sources of these lengths, in compiled shapes.

    shapes: sorted; one of them has a single row that holds the longest source. The length of rows that sources share is
    the one that leaves the fewest positions empty, the longest of several that leave equally few. A source of more than
    MAX_SHARED_LENGTH tokens has a row to itself.
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
    """The length of the rows in which sources share rows.

    If no row of up to MAX_SHARED_LENGTH is compiled yet, it is the shortest row that holds each of the short sources.
    """
    longest = max((length for length in lengths if length <= MAX_SHARED_LENGTH), default=0)
    row_lengths = [length for count, length in shapes if count == 1 and length >= longest]
    candidates = [length for length in row_lengths if length <= MAX_SHARED_LENGTH]
    if not candidates:
        return row_lengths[0]

    def positions(row_length: int) -> float:
        """Padded positions for each device at this row length; infinite if so many rows are not compiled."""
        shared = [row for row in share_rows(lengths, row_length) if tokens_of(row, lengths) <= MAX_SHARED_LENGTH]
        rows = -(-len(shared) // devices)
        return rows * row_length if rows <= 1 or (2, row_length) in shapes else math.inf

    return min(reversed(candidates), key=positions)


def share_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """The indexes of the sources of each row, fullest row first: each source goes into the first row with room.

    The longest source is placed first (first-fit decreasing). One that is longer than a row gets a row to itself.
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
    """Tokens of the sources of a row."""
    return sum(lengths[index] for index in row)


def placed(row: Sequence[int], lengths: Sequence[int]) -> list[PackedSource]:
    """The sources of a row, one behind the other."""
    sources, start = [], 0
    for index in row:
        sources.append(PackedSource(index, start))
        start += lengths[index]
    return sources


def first_tokens(request: Request, bucket: Bucket) -> tuple[np.ndarray, OptionArrays]:
    """A request's prompt (T,), which is the start token and padding, and its options without a row axis."""
    payload: Payload = request.payload
    prompt = np.full(bucket.target, payload.options.pad_id, np.int32)
    prompt[0] = payload.options.start_id
    return prompt, jax.tree.map(lambda column: column[0], payload.arrays)


def row_updates(rows: Sequence[int], values: Sequence[Any], size: int, devices: int) -> RowUpdates:
    """The updates, in numpy, that put `values` into `rows` of a state of `size` rows.

    values: for each row a tree of arrays or numbers; all trees are alike.
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
    """One device's `tree` with rows replaced. make_row: from an entry's value, the same tree with one row."""

    def update(entry: Array, tree: Tree) -> Tree:
        row = make_row(jax.tree.map(lambda x: x[entry], updates.values))
        at = updates.rows[entry]
        changed: Tree = jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, at, 0), tree, row)
        return changed

    result: Tree = jax.lax.fori_loop(0, updates.used[0], update, tree)
    return result


def insert_sources(source: Source, encoded: list[LayerKV], input_ids: Array, updates: RowUpdates) -> Source:
    """One device's sources, some replaced from the encoder's result. updates: values are EncodedSource.

    encoded, input_ids: of all devices, since a source may have been encoded on another one.
    """
    S = source.mask.shape[1]

    def make_row(place: EncodedSource) -> Source:
        row, start, length = (jnp.asarray(number) for number in place)
        return unpack_source(encoded, input_ids, row, start, length, S)

    return update_rows(source, updates, make_row)


def begin_rows(state: State, updates: RowUpdates, config: Config, beams: int) -> State:
    """One device's state, apart from its sources, with rows begun anew; nothing of their old contents is left.

    updates: values are what `first_tokens` returns.
    """
    dtype = state.cache.self_kv[0][0].dtype

    def make_row(value: tuple[Array, OptionArrays]) -> State:
        prompts, options = jax.tree.map(lambda x: x[None], value)
        return init_state(config, state.source, prompts, options, beams, jnp.zeros(1, bool), dtype)

    return update_rows(state, updates, make_row)


def without_source(state: State) -> State:
    """The state that `begin_rows` takes and gives: sources are large, and it does not touch them."""
    absent: Any = None
    return state._replace(source=absent)


def take_rows(state: State, rows: Array, live: Array) -> State:
    """A state of rows (b,) of another state; a row that is not `live` (b,) is marked as done."""
    taken: State = jax.tree.map(lambda leaf: leaf[rows], state)
    return taken._replace(done=taken.done | ~live)
