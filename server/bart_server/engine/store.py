"""Keeps an engine's programs: which are wanted, in which order they are compiled, and which exist. Imports no jax.

A shape is one row count of a bucket, or one encoder shape (rows and positions of the encoder's input) for such a row
count. It opens when all of its programs exist and have run once. Several shapes may need the same program, which is
compiled once. Looking up a program takes no lock and waits for nobody.
"""

import contextlib
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bart_server.scheduling.contract import Bucket, Open, Progress, Request
from bart_server.scheduling.jobs import fit

log = logging.getLogger(__name__)
# The niceness of threads that compile while requests are served. On a busy core such a thread gets a tenth of the time
# that a thread of niceness 0 gets.
NICENESS = 10
FIRST = 0  # the priority of shapes that open before the model is served


@dataclass(frozen=True)
class Program:
    """A program to compile. key: finds the executable in the store. compile: returns the executable.

    uses_weights: whether the model's weights are its first argument. Such a program takes seconds to compile, so it is
    compiled before the others of its shape.
    """

    key: Hashable
    compile: Callable[[], Any]
    uses_weights: bool = False


@dataclass(frozen=True, eq=False)
class Shape:
    """A row count of a bucket, or an encoder shape for it.

    size: the row count. programs: all that requests of this shape need. warm_up: runs each of the programs once.
    priority: shapes with FIRST open before the model is served; the others open later, the lowest number first.
    encoder: the encoder shape; None if the shape is the row count itself.
    """

    bucket: Bucket
    size: int
    programs: Sequence[Program]
    warm_up: Callable[[], object]
    priority: int = FIRST
    encoder: Hashable = None

    @property
    def key(self) -> Hashable:
        return self.bucket, self.size, self.encoder


class Store:
    """The programs and shapes of an engine. Every method may be called from any thread.

    open: the row counts of each open bucket. A change replaces the mapping by a new one.
    """

    def __init__(self) -> None:
        self.open: Open = {}
        self._encoders: frozenset[Hashable] = frozenset()  # the keys of open encoder shapes
        self._executables: dict[Hashable, Any] = {}
        self._lock = threading.Lock()
        self._wanted: list[Shape] = []  # shapes that are neither open nor being warmed up
        self._renewals: list[Program] = []  # programs that exist and are to be compiled again
        self._compiling: set[Hashable] = set()  # keys of programs that a thread has begun to compile
        self._demand: Counter[Hashable] = Counter()  # how many requests would have used a shape, by its key

    def __getitem__(self, key: Hashable) -> Any:
        """The executable. KeyError if it was never compiled."""
        return self._executables[key]

    def want(self, shapes: Sequence[Shape]) -> None:
        """Adds shapes that `compile` is to open; a shape that was closed may be added again."""
        with self._lock:
            self._wanted += shapes

    def renew(self, programs: Sequence[Program]) -> None:
        """Adds programs that `compile` compiles again in the background; the old executables are used until then."""
        with self._lock:
            self._renewals += [program for program in programs if program.key in self._executables]

    def ask(self, bucket: Bucket, size: int, encoder: Hashable = None) -> None:
        """Counts a request that would have used this shape. The shapes with the highest counts are compiled first."""
        with self._lock:
            self._demand[bucket, size, encoder] += 1

    def has_encoder(self, bucket: Bucket, size: int, encoder: Hashable) -> bool:
        """Whether this encoder shape is open for a row count of a bucket."""
        return (bucket, size, encoder) in self._encoders

    def oversized(self, bucket: Bucket, size: int, rows: int, requests: Sequence[Request]) -> int:
        """How many of the requests do not run in their best bucket and row count. Calls `ask` for each best one.

        bucket, size: those that the requests run in. rows: the rows in use, including those of the requests. Encoder
        shapes are not compared.
        """
        count = 0
        for request in requests:
            best_bucket = request.buckets[0]
            best_size = fit(rows, best_bucket.sizes)
            if (bucket, size) != (best_bucket, best_size):
                self.ask(best_bucket, best_size)
                count += 1
        return count

    def progress(self, first: bool = False) -> Progress:
        """How many programs exist, and how many exist or are wanted.

        One that is to be compiled again counts as missing. first: counts, of the wanted ones, only those that are
        compiled before the model is served.
        """
        with self._lock:
            missing: set[Hashable] = set()
            for shape in self._wanted:
                if not first or shape.priority == FIRST:
                    missing.update(program.key for program in shape.programs)
            missing -= self._executables.keys()
            wanted = len(self._executables) + len(missing)
            return Progress(len(self._executables) - len(self._renewals), wanted)

    def compile(self, stop: Callable[[], bool], background: bool = False) -> None:
        """Compiles what has to exist before the model is served, on as many threads as there are cores.

        background: compiles everything else, on the calling thread at a low priority. Returns early when `stop` is
        true. Raises the error of a program that cannot be compiled; in the background such an error is logged, and
        the shapes that need the program stay closed.
        """
        if background:
            lower_priority()
            self._work(stop, None)
            return
        threads = os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:  # XLA releases the interpreter's lock while it compiles
            for future in [pool.submit(self._work, stop, FIRST) for _ in range(threads)]:
                future.result()

    def close(self, bucket: Bucket, *sizes: int) -> None:
        """Closes these row counts of a bucket, or all if none is named. Executables are kept: rows may still run."""
        with self._lock:
            remaining = tuple(size for size in self.open.get(bucket, ()) if sizes and size not in sizes)
            others = {other: open_sizes for other, open_sizes in self.open.items() if other is not bucket}
            self.open = {**others, bucket: remaining} if remaining else others

    def _work(self, stop: Callable[[], bool], last: int | None) -> None:
        """Compiles programs and opens shapes of priorities up to `last` (None: any) until nothing is left to begin."""
        while not stop():
            shape = self._complete_shape(last)
            if shape is not None:
                with self._handling_errors([shape], last):
                    shape.warm_up()
                    self._open(shape)
                continue
            program = self._missing_program(last)
            if program is None:
                return
            with self._handling_errors(self._needing(program), last):
                executable = program.compile()
                with self._lock:
                    self._executables[program.key] = executable

    def _complete_shape(self, last: int | None) -> Shape | None:
        """Takes a wanted shape of which all programs exist; no other thread gets it. None if there is none."""
        with self._lock:
            for shape in self._wanted:
                if within(shape, last) and all(program.key in self._executables for program in shape.programs):
                    self._wanted.remove(shape)
                    return shape
            return None

    def _missing_program(self, last: int | None) -> Program | None:
        """Takes the next program to compile; no other thread gets it. None if there is none.

        Programs that are compiled again come first. The others are ordered by their shapes: by how many requests would
        have used the shape, then by its priority. Of one shape, programs that use the weights come first.
        """
        with self._lock:
            if last is None and self._renewals:
                return self._renewals.pop(0)
            next_rank: tuple[int, int, bool] | None = None
            next_program = None
            for shape in self._wanted:
                if not within(shape, last):
                    continue
                for program in shape.programs:
                    if program.key in self._executables or program.key in self._compiling:
                        continue
                    rank = (-self._demand[shape.key], shape.priority, not program.uses_weights)
                    if next_rank is None or rank < next_rank:
                        next_rank, next_program = rank, program
            if next_program is not None:
                self._compiling.add(next_program.key)
            return next_program

    def _needing(self, program: Program) -> list[Shape]:
        """The wanted shapes that need this program."""
        with self._lock:
            return [shape for shape in self._wanted if any(program.key == other.key for other in shape.programs)]

    def _open(self, shape: Shape) -> None:
        """Lets requests use a shape."""
        with self._lock:
            if shape.encoder is not None:
                self._encoders |= {shape.key}
                return
            sizes = {*self.open.get(shape.bucket, ()), shape.size}
            self.open = {**self.open, shape.bucket: tuple(sorted(sizes))}

    @contextlib.contextmanager
    def _handling_errors(self, shapes: Sequence[Shape], last: int | None) -> Iterator[None]:
        """Handles an error that the block raises.

        In the background (`last` is None) it logs the error and removes these shapes from the wanted ones. Before the
        model is served it removes all shapes, so that other threads stop too, and raises the error.
        """
        try:
            yield
        except Exception as error:
            with self._lock:
                self._wanted = [] if last is not None else [shape for shape in self._wanted if shape not in shapes]
            if last is not None:
                raise
            names = [f"{shape.bucket.name} x {shape.size}" for shape in shapes]
            log.error("a program cannot be compiled; its shapes stay closed", extra={"shapes": names}, exc_info=error)


def within(shape: Shape, last: int | None) -> bool:
    """Whether the shape's priority is at most `last`; None: any priority."""
    return last is None or shape.priority <= last


def lower_priority(*threads: int) -> None:
    """Lowers the priority of threads below that of the process's other threads. Does so on Linux only.

    threads: native ids; if there are none, the calling thread.
    """
    if sys.platform == "linux":
        for thread in threads or (threading.get_native_id(),):
            with contextlib.suppress(OSError):  # the thread has ended
                os.setpriority(os.PRIO_PROCESS, thread, NICENESS)
