"""The programs of an engine: which are wanted, in which order they are compiled, and which exist. Imports no jax.

A shape is one row count of one bucket. It opens when all of its programs exist and have run once; several shapes may
need the same program, which is compiled once. Looking a program up takes no lock and waits for nobody.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bart_server.scheduling.contract import Bucket, Open

log = logging.getLogger(__name__)
NICENESS = 10  # of a thread that compiles while requests are served; on a busy core it gets a tenth of the others' time


@dataclass(frozen=True)
class Program:
    """key: of the executable in the store. compile: makes it. long: it takes seconds, so it is compiled first."""

    key: Hashable
    compile: Callable[[], Any]
    long: bool = False


@dataclass(frozen=True, eq=False)
class Shape:
    """A row count of a bucket. programs: all that its requests need. warm_up: runs each of them once.

    priority: 0 has to be open before the model is served; the others follow behind, the lowest first.
    """

    bucket: Bucket
    size: int
    programs: Sequence[Program]
    warm_up: Callable[[], None]
    priority: int = 0


class Store:
    """open: see Engine.open. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.open: Open = {}
        self._executables: dict[Hashable, Any] = {}
        self._lock = threading.Lock()
        self._wanted: list[Shape] = []  # neither open nor being warmed up
        self._compiling: set[Hashable] = set()

    def __getitem__(self, key: Hashable) -> Any:
        """The executable. KeyError if it was never compiled."""
        return self._executables[key]

    def want(self, shapes: Sequence[Shape]) -> None:
        """Adds shapes that `compile` is to open; a shape that was closed may be added again."""
        with self._lock:
            self._wanted += shapes

    def compile(self, stop: Callable[[], bool], behind: bool = False) -> None:
        """See Engine.compile. An error ends it; behind, where others are served, it costs the shapes that need it."""
        if behind:
            lower_priority()
            self._work(stop, None)
            return
        threads = os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:  # XLA compiles outside the interpreter's lock
            for working in [pool.submit(self._work, stop, 0) for _ in range(threads)]:
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
        """The next program to compile, which no other thread gets: by priority, then long ones first."""
        with self._lock:
            missing = [
                (shape.priority, not program.long, index, program)
                for index, shape in enumerate(self._wanted)
                if within(shape, last)
                for program in shape.programs
                if program.key not in self._executables and program.key not in self._compiling
            ]
            if not missing:
                return None
            *_, program = min(missing, key=lambda entry: entry[:3])
            self._compiling.add(program.key)
            return program

    def _needing(self, program: Program) -> list[Shape]:
        with self._lock:
            return [shape for shape in self._wanted if any(program.key == other.key for other in shape.programs)]

    def _open(self, shape: Shape) -> None:
        with self._lock:
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
            log.error("shapes that cannot be compiled stay closed", extra={"shapes": names}, exc_info=error)


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
