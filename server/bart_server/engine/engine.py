"""JaxEngine: one revision of a model on a device, with the tasks that it can do and the shape buckets of each."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from bart_inference import Prepared

from bart_server.engine.cache import NoCache, ProgramCache, name_of
from bart_server.engine.device import PANELS, DeviceModel
from bart_server.engine.packing import EncoderShape
from bart_server.engine.shapes import Shapes, complete
from bart_server.engine.store import FIRST, Program, Shape, Store, lower_priority
from bart_server.engine.tasks import TASKS, DeviceTask
from bart_server.scheduling.contract import Bucket, Decode, Description, Once, Open, Progress, Request
from bart_server.scheduling.errors import InvalidArgument
from bart_server.scheduling.tasks import Input, Task

log = logging.getLogger(__name__)
# Returns the priority (see store.Shape) of a row count of a bucket, or of an encoder shape for that row count. The
# first argument has all shapes that will be compiled.
Priority = Callable[[Shapes, Bucket, int, EncoderShape | None], int]


def everything_first(shapes: Shapes, bucket: Bucket, size: int, encoder: EncoderShape | None) -> int:
    """Every program is compiled before the model is served."""
    return FIRST


def essential_first(shapes: Shapes, bucket: Bucket, size: int, encoder: EncoderShape | None) -> int:
    """Before the model is served, each task and beam width gets its longest source with its smallest row count only.

    Next come the other row counts, without which a worker computes few requests at once, then shorter sources, and
    encoder shapes last. In the background, shapes that requests would have used are compiled before all others.
    """
    longest = bucket.source == shapes.sources[-1]
    if encoder is not None:
        return 3 if longest else 4
    if not longest:
        return 2
    return FIRST if size == bucket.sizes[0] else 1


def no_warm_up() -> None:
    """A warm-up that runs no program."""


class JaxEngine:
    """Implements contract.Engine, the scheduler's interface to one model, with jax.

    shapes: what to compile. priority: gives the order. cache: where programs are stored; if None, nowhere. later: loads
    the same model in a layout that is faster, but whose programs the cache cannot store; the background compilation
    then replaces every program that uses the weights of `prepared`.
    """

    def __init__(
        self,
        prepared: Prepared,
        revision: str,
        shapes: Shapes,
        priority: Priority = everything_first,
        cache: ProgramCache | None = None,
        later: Callable[[], Prepared] | None = None,
    ) -> None:
        self._model = model = DeviceModel(prepared)
        self._cache = cache or NoCache()
        self._later = later
        self._config = model.config
        # Raises OptionError if the checkpoint's default length is beyond its position table.
        longest = model.default.lengths(1, self._config)[1]
        shapes = complete(shapes, longest, self._config.max_position_embeddings)
        shapes = shapes._replace(rows=tuple(rows * model.devices for rows in shapes.rows))
        self.store = Store()
        self._tasks: dict[Task, DeviceTask] = {}
        for task, make in TASKS.items():
            device_task = make(model, shapes, self.store)
            if device_task is not None:
                self._tasks[task] = device_task
        self.buckets = [bucket for device_task in self._tasks.values() for bucket in device_task.buckets]
        wanted: list[Shape] = []
        ordered = sorted(self.buckets, key=self._unlike_default)
        # the bucket that is run at the start, on a CPU too
        self._run_first = next(bucket for bucket in ordered if bucket.source == shapes.sources[-1])
        for bucket in ordered:
            wanted += self._shapes(bucket, shapes, priority)
        self.store.want(wanted)
        self._programs = list({program.key: program for shape in wanted for program in shape.programs}.values())
        self.description = Description(
            revision=revision,
            tasks=tuple(self._tasks),
            dtype=model.dtype,
            platform=jax.default_backend(),
            layout=f"{model.layout}, then {PANELS}" if later else model.layout,
            devices=model.devices,
            source_tokens=shapes.sources[-1],
            target_tokens=shapes.target,
        )

    @property
    def open(self) -> Open:
        return self.store.open

    def compile(self, stop: Callable[[], bool], background: bool = False) -> None:
        began = time.perf_counter()
        if background:
            self._change_layout()
        self.store.compile(stop, background)
        if background:
            self._cache.prune()
        seconds = round(time.perf_counter() - began, 1)
        compiled = self.progress().compiled
        log.info("compiled", extra={"programs": compiled, "background": background, "seconds": seconds})

    def _change_layout(self) -> None:
        """Loads the weights in the layout of `later`, and has every program that uses weights compiled again."""
        later, self._later = self._later, None
        if later is None:
            return
        lower_priority()
        self._model.use(later())
        self.store.renew([program for program in self._programs if program.uses_weights])

    def _compile(self, program: Program) -> Any:
        """The executable of a program, from the cache if it is there.

        If it uses weights, they are already its argument.
        """
        weights = self._model.weights
        if program.uses_weights and self._model.layout == PANELS:
            # jaxlib cannot serialize a program that calls oneDNN: it takes the call for one of another kind and reads
            # invalid memory.
            executable = program.compile()
        else:
            name = name_of(self._model.identity(), program.key)
            executable = self._cache.get_or_compile(name, program.compile)
        return partial(executable, weights) if program.uses_weights else executable

    def progress(self, first: bool = False) -> Progress:
        return self.store.progress(first)

    def requests(self, task_input: Input) -> Sequence[Request]:
        self._check_ids(task_input.source)
        return self._tasks[type(task_input)].requests(task_input, self.open)

    def work(self, bucket: Bucket) -> Once | Decode:
        work: Any = self._tasks[bucket.task]
        task: Once | Decode = work
        return task

    def _unlike_default(self, bucket: Bucket) -> bool:
        """A sort key that puts the buckets of requests without options first: it is False for these."""
        default = self._model.default
        return (bucket.beams, bucket.sample) != (default.num_beams, default.do_sample)

    def _shapes(self, bucket: Bucket, all_shapes: Shapes, priority: Priority) -> list[Shape]:
        """The shapes of a bucket's row counts, by priority, with their encoder shapes.

        A batch can be resized between a row count and any that comes before it.
        """
        sizes = sorted(bucket.sizes, key=lambda size: (priority(all_shapes, bucket, size, None), size))
        result = []
        for index, size in enumerate(sizes):
            for shape in self._tasks[bucket.task].shapes(bucket, size, sizes[:index]):
                encoder: Any = shape.encoder
                rank = priority(all_shapes, bucket, size, encoder)
                warm_up = shape.warm_up
                if rank == FIRST and bucket is not self._run_first and jax.default_backend() == "cpu":
                    # On a CPU a program's first run is as fast as later ones, so a warm-up only delays the start, by
                    # seconds for long rows. One bucket still runs, to show whether the weights are finite.
                    warm_up = no_warm_up
                programs = [replace(program, compile=partial(self._compile, program)) for program in shape.programs]
                result.append(replace(shape, priority=rank, programs=programs, warm_up=warm_up))
        return result

    def _check_ids(self, source: Sequence[int]) -> None:
        limit, vocabulary = self.description.source_tokens, self._config.vocab_size
        if not 1 <= len(source) <= limit:
            raise InvalidArgument("token_ids", f"{len(source)} tokens, between 1 and {limit} fit")
        if max(source) >= vocabulary:
            raise InvalidArgument("token_ids", f"holds {max(source)}, the vocabulary ends at {vocabulary - 1}")
