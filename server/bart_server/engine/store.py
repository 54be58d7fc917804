"""The programs of an engine: which are wanted, in which order they are compiled, and which exist. Imports no jax.

A shape is one row count of one bucket, or one more encoder shape for it. It opens when all of its programs exist and
have run once; several shapes may need the same program, which is compiled once. Looking a program up takes no lock and
waits for nobody.
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
NICENESS = 10  # of a thread that compiles while requests are served; on a busy core it gets a tenth of the others' time
FIRST = 0  # priority of what is compiled before the model is served


@dataclass(frozen=True)
class Program:
    """key: of the executable in the store. compile: makes it.

    uses_weights: the model's weights are its first argument. Such a program takes seconds, so it is compiled first.
    """

    key: Hashable
    compile: Callable[[], Any]
    uses_weights: bool = False


@dataclass(frozen=True, eq=False)
class Shape:
    """A row count of a bucket. programs: all that its requests need. warm_up: runs each of them once.

    priority: FIRST has to be open before the model is served; the others follow in the background, the lowest first.
    encoder: if it is not None, the shape is not the row count itself but this encoder shape for it.
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
    """open: see Engine.open. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.open: Open = {}
        self._encoders: frozenset[Hashable] = frozenset()  # the keys of open encoder shapes
        self._executables: dict[Hashable, Any] = {}
        self._lock = threading.Lock()
        self._wanted: list[Shape] = []  # neither open nor being warmed up
        self._renewals: list[Program] = []  # exist, and are to be compiled anew
        self._compiling: set[Hashable] = set()
        self._demand: Counter[Hashable] = Counter()  # requests that would have used a shape, by its key

    def __getitem__(self, key: Hashable) -> Any:
        """The executable. KeyError if it was never compiled."""
        return self._executables[key]

    def want(self, shapes: Sequence[Shape]) -> None:
        """Adds shapes that `compile` is to open; a shape that was closed may be added again."""
        with self._lock:
            self._wanted += shapes

    def renew(self, programs: Sequence[Program]) -> None:
        """Adds programs that `compile` makes anew in the background; the old executables are used until then."""
        with self._lock:
            self._renewals += [program for program in programs if program.key in self._executables]

    def ask(self, bucket: Bucket, size: int, encoder: Hashable = None) -> None:
        """A request would have used this shape. Those that most requests would have used are compiled first."""
        with self._lock:
            self._demand[bucket, size, encoder] += 1

    def has_encoder(self, bucket: Bucket, size: int, encoder: Hashable) -> bool:
        """Whether this encoder shape is open for a row count of a bucket."""
        return (bucket, size, encoder) in self._encoders

    def oversized(self, bucket: Bucket, size: int, rows: int, requests: Sequence[Request]) -> int:
        """See Work.oversized, where encoder shapes are left out of account."""
        count = 0
        for request in requests:
            best_bucket = request.buckets[0]
            best_size = fit(rows, best_bucket.sizes)
            if (bucket, size) != (best_bucket, best_size):
                self.ask(best_bucket, best_size)
                count += 1
        return count

    def progress(self, first: bool = False) -> Progress:
        """How many programs exist, of those that exist or are wanted. first: of those before the model is served."""
        with self._lock:
            missing: set[Hashable] = set()
            for shape in self._wanted:
                if not first or shape.priority == FIRST:
                    missing.update(program.key for program in shape.programs)
            missing -= self._executables.keys()
            wanted = len(self._executables) + len(missing)
            return Progress(len(self._executables) - len(self._renewals), wanted)

    def compile(self, stop: Callable[[], bool], background: bool = False) -> None:
        """See Engine.compile. An error ends it; in the background it only closes the shapes that need the program."""
        if background:
            lower_priority()
            self._work(stop, None)
            return
        threads = os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:  # XLA compiles outside the interpreter's lock
            for working in [pool.submit(self._work, stop, FIRST) for _ in range(threads)]:
                working.result()

    def close(self, bucket: Bucket, *sizes: int) -> None:
        """Closes these row counts of a bucket, or all if none is named. Executables stay: rows may still run."""
        with self._lock:
            remaining = tuple(size for size in self.open.get(bucket, ()) if sizes and size not in sizes)
            others = {other: open_sizes for other, open_sizes in self.open.items() if other is not bucket}
            self.open = {**others, bucket: remaining} if remaining else others

    def _work(self, stop: Callable[[], bool], last: int | None) -> None:
        """Compiles programs and opens shapes, up to the priority `last`, until nothing is left to begin."""
        while not stop():
            shape = self._complete_shape(last)
            if shape is not None:
                with self._survived([shape], last):
                    shape.warm_up()
                    self._open(shape)
                continue
            program = self._missing_program(last)
            if program is None:
                return
            with self._survived(self._needing(program), last):
                executable = program.compile()
                with self._lock:
                    self._executables[program.key] = executable

    def _complete_shape(self, last: int | None) -> Shape | None:
        """A shape that has all of its programs; no other thread gets it."""
        with self._lock:
            for shape in self._wanted:
                if within(shape, last) and all(program.key in self._executables for program in shape.programs):
                    self._wanted.remove(shape)
                    return shape
            return None

    def _missing_program(self, last: int | None) -> Program | None:
        """The next program to compile, which no other thread gets.

        One that is compiled anew, then one of a shape that most requests would have used, then of the lowest priority,
        and those that take long first.
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
        with self._lock:
            return [shape for shape in self._wanted if any(program.key == other.key for other in shape.programs)]

    def _open(self, shape: Shape) -> None:
        with self._lock:
            if shape.encoder is not None:
                self._encoders |= {shape.key}
                return
            sizes = {*self.open.get(shape.bucket, ()), shape.size}
            self.open = {**self.open, shape.bucket: tuple(sorted(sizes))}

    @contextlib.contextmanager
    def _survived(self, shapes: Sequence[Shape], last: int | None) -> Iterator[None]:
        """After an error, gives up these shapes. Before the model is served, gives up everything and raises it."""
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
            with contextlib.suppress(OSError):  # it has ended
                os.setpriority(os.PRIO_PROCESS, thread, NICENESS)
