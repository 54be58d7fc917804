"""Which sources are encoded together, and what goes into a state's rows: the engine's pure functions."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from bart_inference.generation.arrays import OptionArrays
from bart_inference.generation.options import Options
from bart_inference.generation.search import State, begin
from bart_inference.model.transformer import Pairs, Source, unpack

from bart_oneliner import Array, Config
from bart_server.scheduling.contract import Bucket, Request

Tree = TypeVar("Tree")
LENGTHS = (32, 64, 96, 112, 128, 192, 256, 384, 512, 768, 1024)  # positions of an encoded row
# Several sources share a row of at most so many: in longer ones, attention across sources costs more than it saves.
TOGETHER = 128
SEVERAL = 96  # positions of the shortest rows of which a device encodes several at once, up to ROWS
ROWS = 4


class EncoderShape(NamedTuple):
    """What the encoder is compiled for: rows on each device, and their positions."""

    rows: int
    length: int


class Piece(NamedTuple):
    """Sources that are encoded at once. rows: for each row of all devices, the sources in it, (index, start)."""

    shape: EncoderShape
    rows: list[list[tuple[int, int]]]


class Planned(NamedTuple):
    """A request's options: as given and as one packed row."""

    options: Options
    packed: OptionArrays


class Placed(NamedTuple):
    """Where an encoded source lies: in which row, from where."""

    row: int
    start: int
    length: int


class Entries(NamedTuple):
    """What goes into n rows of each of D devices, its own ones: of its n entries the first `used` count."""

    used: Array  # (D,) int32
    target: Array  # (D·n,) int32: which of the device's own rows
    what: Any  # arrays (D·n,…)


def encoder_shapes(longest: int, rows: int) -> list[EncoderShape]:
    """All shapes that `pieces` picks for up to `rows` sources a device, of up to `longest` tokens."""
    most = max(longest, min(TOGETHER, longest * rows))
    lengths = [*(length for length in LENGTHS if length < most), min((n for n in LENGTHS if n >= most), default=most)]
    more = min(rows, ROWS) if TOGETHER in lengths else 1
    several = [length for length in lengths if SEVERAL <= length <= TOGETHER]
    return [
        *(EncoderShape(1, length) for length in lengths),
        *(EncoderShape(count, length) for count in range(2, more + 1) for length in several),
    ]


def pieces(sources: Sequence[int], shapes: Sequence[EncoderShape], devices: int = 1) -> list[Piece]:
    """How sources of these lengths share rows of compiled shapes, each in the first with room, the longest first.

    The rows are as long as leaves the fewest positions empty, rather a few long ones than many. A source of more than
    TOGETHER has a row for itself.
    """

    def share(room: int) -> list[list[int]]:
        rows: list[list[int]] = []
        for index in sorted(range(len(sources)), key=lambda index: -sources[index]):
            fits = (row for row in rows if tokens(row) + sources[index] <= room)
            if (row := next(fits, None)) is not None:
                row.append(index)
            else:
                rows.append([index])
        return sorted(rows, key=tokens, reverse=True)

    def tokens(row: Sequence[int]) -> int:
        return sum(sources[index] for index in row)

    def positions(length: int) -> float:
        """That the rows take on a device if they are so long; too many where a device has one such row at once."""
        count = -(-sum(tokens(row) <= TOGETHER for row in share(length)) // devices)
        return count * length if count <= 1 or (2, length) in shapes else math.inf

    lengths = [length for count, length in shapes if count == 1]
    longest = max((n for n in sources if n <= TOGETHER), default=0)
    common = min((n for n in reversed(lengths) if longest <= n <= TOGETHER), key=positions)
    rows, found = share(common), []
    while rows:
        alone = tokens(rows[0]) > TOGETHER or len(rows) <= devices
        count = 1 if alone else min(ROWS, -(-len(rows) // devices))
        group, rows = rows[: count * devices], rows[count * devices :]
        length = next(n for n in lengths if n >= tokens(group[0])) if alone else common
        placed = [[(index, tokens(row[:at])) for at, index in enumerate(row)] for row in group]
        found.append(Piece(EncoderShape(count, length), placed))
    return found


def beginning(request: Request, bucket: Bucket) -> tuple[np.ndarray, OptionArrays]:
    """A request's prompt (T,) and its options, as put_beginnings wants them in this bucket."""
    planned: Planned = request.payload
    prompt = np.full(bucket.target, planned.options.pad_id, np.int32)
    prompt[0] = planned.options.start_id
    return prompt, jax.tree.map(lambda column: column[0], planned.packed)


def entries_of(targets: Sequence[int], what: Sequence[Any], size: int, devices: int) -> Entries:
    """Entries, on the host, for rows `targets` of a state of `size`; what: a tree of arrays or numbers for each."""
    n = size // devices
    used, target = np.zeros(devices, np.int32), np.zeros(size, np.int32)
    columns: Any = jax.tree.map(lambda x: np.zeros((size, *np.shape(x)), np.asarray(x).dtype), what[0])
    leaves = jax.tree.leaves(columns)
    for row, one in zip(targets, what, strict=True):
        device = row // n
        at = device * n + used[device]
        used[device] += 1
        target[at] = row % n
        for column, value in zip(leaves, jax.tree.leaves(one), strict=True):
            column[at] = value
    on_host: list[Any] = [used, target, columns]
    return Entries(*on_host)


def put(entries: Entries, tree: Tree, make: Callable[[Any], Tree]) -> Tree:
    """`tree` with rows replaced by what `make` makes of the entries: a tree alike, of one row."""

    def one(at: Array, tree: Tree) -> Tree:
        fresh = make(jax.tree.map(lambda x: x[at], entries.what))
        return jax.tree.map(
            lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, entries.target[at], 0), tree, fresh
        )

    return jax.lax.fori_loop(0, entries.used[0], one, tree)


def put_sources(source: Source, packed: Pairs, input_ids: Array, entries: Entries) -> Source:
    """One device's sources with some replaced by what was encoded on any; entries: Placed."""
    S = source.mask.shape[1]
    return put(entries, source, lambda placed: unpack(packed, input_ids, placed.row, placed.start, placed.length, S))


def put_beginnings(state: State, entries: Entries, config: Config, beams: int) -> State:
    """One device's state, but for its sources, with rows begun anew; nothing is left of what they held.

    entries: prompts (T,) and OptionArrays without its row axis.
    """
    dtype = state.cache.own[0][0].dtype

    def fresh(what: tuple[Array, OptionArrays]) -> State:
        prompts, options = jax.tree.map(lambda x: x[None], what)
        return begin(config, state.source, prompts, options, beams, jnp.zeros(1, bool), dtype)

    return put(entries, state, fresh)


def take_rows(state: State, rows: Array, live: Array) -> State:
    """The given rows (b,) of a state as a state of b rows; those that are not `live` (b,) are free."""
    taken = jax.tree.map(lambda leaf: leaf[rows], state)
    return taken._replace(done=taken.done | ~live)
