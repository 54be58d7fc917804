"""Serves models without a port, for a transport such as gRPC or for the program that made the runtime.

    async with Runtime(Settings()) as runtime:
        answer = await runtime.summarize(pb.SummarizeRequest(text="A long text."))

A runtime loads models, replaces their revisions, and runs the scheduler's workers, each on a thread. Signal handlers
and exit statuses are in `process`. All methods but `close` must be called on one event loop.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from bart_proto.v1 import bart_pb2 as pb
from google.protobuf.message import Message
from tokenizers import Tokenizer

from bart_server.scheduling.admission import Budget
from bart_server.scheduling.contract import Engine
from bart_server.scheduling.errors import Unavailable
from bart_server.scheduling.jobs import Reservation
from bart_server.scheduling.scheduler import Scheduler
from bart_server.services.call import Call
from bart_server.services.limits import Limits
from bart_server.services.methods import Method, Response, Services
from bart_server.services.models import RETRY_WHILE_LOADING, Models, Served, served_by_ids
from bart_server.services.status import code_of
from bart_server.services.text import Text
from bart_server.settings import Settings, SettingsError
from bart_server.telemetry.metrics import Metrics
from bart_server.telemetry.startup import Startup
from bart_server.telemetry.tracing import Tracer

log = logging.getLogger(__name__)
JOIN_TIMEOUT = 1.0  # seconds that `close` waits for each thread
POLL = 0.01  # seconds between checks whether anything is in flight
INLINE_BYTES = 16_384  # the largest message that is parsed on the event loop, which takes much less than a millisecond
# Reads the model of a path. Returns its engine, and its tokenizer or None.
Load = Callable[[Settings, str], tuple[Engine, Tokenizer | None]]
Result = TypeVar("Result")


class Runtime:
    """Loads the models of the settings and serves calls, without a port.

    load: reads the model of a path, on a thread; if None, `bart_server.engine.load`, which imports jax. metrics,
    tracer: if None, new ones are made. on_death: called when the workers end by an error or a call of the device does
    not return, on a worker's thread or the watchdog's; every later call raises Unavailable.
    """

    def __init__(
        self,
        settings: Settings,
        load: Load | None = None,
        *,
        metrics: Metrics | None = None,
        tracer: Tracer | None = None,
        on_death: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.startup = Startup()
        self.models = Models(self.startup.seconds_left)
        self.scheduler = Scheduler(
            Budget(settings.max_requests, settings.max_cost),
            settings.chunk,
            self.metrics,
            on_death=partial(self._died, on_death),
            workers=settings.workers,
        )
        self._load = load
        self._paths = settings.models()
        self._replacing = asyncio.Lock()
        self._tracer = tracer or Tracer()
        self._pool = ThreadPoolExecutor(settings.tokenizer_threads, thread_name_prefix="tokenizer")
        self._limits = limits(settings)
        self._services = Services(self.models, self.scheduler, self._pool, self._limits)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    # ── from start to end ─────────────────────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> "Runtime":
        try:
            await self.start()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain(self.settings.grace)
        self.close()

    async def start(self) -> None:
        """Loads and compiles every model of the settings, then serves. Called once. Raises what loading raises."""
        served = [await self._loaded(name, path) for name, path in self._paths.items()]
        for model in served:
            try:
                self.scheduler.add(model.name, model.engine)
            except ValueError as error:
                raise SettingsError(f"--max-cost is {self.settings.max_cost}: {error}") from None
        self._spawn(self._watch, "watchdog")
        for worker in range(self.settings.workers):
            self._spawn(partial(self.scheduler.run, worker), f"worker-{worker}")
        self.models.publish(served)
        self.metrics.ready(True)
        self._spawn(partial(self._compile_background, [model.engine for model in served]), "compiler")

    async def replace(self, name: str, path: str | None = None) -> None:
        """Loads a model again and serves it as a new revision. path: if None, the path of the present revision.

        The new revision is loaded and compiled at a low priority while calls are served. Then new calls go to it, and
        calls in flight end on the old revision; `replace` returns when the last of them has ended. Raises UnknownModel,
        and what loading raises; in both cases the old revision is still served.
        """
        async with self._replacing:
            old = self.models.find(name)
            path = path or self._paths[old.name]
            new = await self._loaded(old.name, path, background=True)
            self.scheduler.add(new.name, new.engine)
            self.models.publish([new])  # calls begin on this event loop, so none begins before the next line
            self.scheduler.remove(old.engine)
            self._paths[new.name] = path
            revisions = {"old": old.engine.description.revision, "new": new.engine.description.revision}
            log.info("replaced", extra={"model": new.name, "path": path, **revisions})
            while self.scheduler.serves(old.engine):
                await asyncio.sleep(POLL)

    async def drain(self, grace: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Refuses new calls, and waits for those in flight until `grace` seconds have passed or `until()` is true.

        Returns whether all of them have ended.
        """
        self._stopping.set()
        self.metrics.ready(False)
        self.scheduler.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while not self.scheduler.idle() and not until():
                    await asyncio.sleep(POLL)
        return self.scheduler.idle()

    def close(self) -> None:
        """Stops the threads; calls in flight fail with Unavailable. May be called on any thread."""
        self._stopping.set()
        self.metrics.ready(False)
        self.scheduler.stop()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def busy(self) -> bool:
        """Whether a thread is still compiling or in a call of the device, which nothing can interrupt."""
        return any(thread.is_alive() for thread in self._threads)

    def revisions(self) -> dict[str, str]:
        """The revision that each model's new calls go to."""
        return {served.name: served.engine.description.revision for served in self.models.all()}

    def layouts(self) -> dict[str, str]:
        """The layout of each model's weights, in words."""
        return {served.name: served.engine.description.layout for served in self.models.all()}

    # ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def call(self, method: str, message: Message, call: Call) -> Response:
        """The answer to one message, for a transport: awaited, or iterated over if the method streams.

        See `Services.call`.
        """
        return self._services.call(method, message, call)

    def admit(self, identity: str) -> Reservation:
        """Takes a call's first place, before a transport reads its message. Raises Unavailable or Overloaded."""
        self.models.check_loaded()
        return self.scheduler.hold(identity)

    async def parse(self, method: Method, data: bytes) -> Message:
        """Parses a message's bytes, on a thread if there are many.

        Raises InvalidArgument for a field that is too large.
        """
        if len(data) <= INLINE_BYTES:
            return method.parse(data, self._limits)
        return await asyncio.to_thread(method.parse, data, self._limits)

    @contextlib.contextmanager
    def observe(self, method: str, call: Call, headers: Mapping[str, Any]) -> Iterator[None]:
        """Counts, logs and traces one call, for which a transport does everything inside this context.

        headers: of the call; a `traceparent` among them makes its span a child of the caller's.
        """
        began, code = time.perf_counter(), "CANCELLED"
        self.metrics.call_began(method)
        try:
            with self._tracer.call(method, headers, call.facts):
                yield
            code = "OK"
        except asyncio.CancelledError:
            code = code_of(call.cancellation())
            raise
        except Exception as error:
            code = code_of(error)
            if code == "INTERNAL":
                log.exception("call failed", extra={"request_id": call.request_id})
            raise
        finally:
            seconds = time.perf_counter() - began
            self.metrics.call_ended(method, code, seconds)
            log.info("call", extra={**call.facts, "code": code, "seconds": round(seconds, 6)})

    async def summarize(self, request: pb.SummarizeRequest, call: Call | None = None) -> pb.SummarizeResponse:
        """This and the following methods are those of the protocol; protos/bart/v1/bart.proto explains their messages.

        call: sets a deadline, and can be cancelled; None: no deadline. Raises a RequestError.
        """
        return await self._unary("/bart.v1.SummarizationService/Summarize", request, call, pb.SummarizeResponse)

    def stream_summarize(
        self, request: pb.StreamSummarizeRequest, call: Call | None = None
    ) -> AsyncGenerator[pb.StreamSummarizeResponse, None]:
        return self._stream("/bart.v1.SummarizationService/StreamSummarize", request, call)

    async def batch_summarize(
        self, request: pb.BatchSummarizeRequest, call: Call | None = None
    ) -> pb.BatchSummarizeResponse:
        return await self._unary(
            "/bart.v1.SummarizationService/BatchSummarize", request, call, pb.BatchSummarizeResponse
        )

    async def generate(self, request: pb.GenerateRequest, call: Call | None = None) -> pb.GenerateResponse:
        return await self._unary("/bart.v1.GenerationService/Generate", request, call, pb.GenerateResponse)

    def stream_generate(
        self, request: pb.StreamGenerateRequest, call: Call | None = None
    ) -> AsyncGenerator[pb.StreamGenerateResponse, None]:
        return self._stream("/bart.v1.GenerationService/StreamGenerate", request, call)

    async def score(self, request: pb.ScoreRequest, call: Call | None = None) -> pb.ScoreResponse:
        return await self._unary("/bart.v1.GenerationService/Score", request, call, pb.ScoreResponse)

    async def classify_zero_shot(
        self, request: pb.ClassifyZeroShotRequest, call: Call | None = None
    ) -> pb.ClassifyZeroShotResponse:
        return await self._unary(
            "/bart.v1.ClassificationService/ClassifyZeroShot", request, call, pb.ClassifyZeroShotResponse
        )

    async def list_models(self, request: pb.ListModelsRequest, call: Call | None = None) -> pb.ListModelsResponse:
        return await self._unary("/bart.v1.ModelService/ListModels", request, call, pb.ListModelsResponse)

    async def get_model(self, request: pb.GetModelRequest, call: Call | None = None) -> pb.GetModelResponse:
        return await self._unary("/bart.v1.ModelService/GetModel", request, call, pb.GetModelResponse)

    async def _unary(self, method: str, request: Message, call: Call | None, kind: type[Result]) -> Result:
        """Serves a call with one answer. kind: the class of the answer's message."""
        call = call or Call()
        with self.observe(method, call, {}):
            awaitable: Any = self.call(method, request, call)
            answer = await awaitable
            assert isinstance(answer, kind)
            return answer

    async def _stream(self, method: str, request: Message, call: Call | None) -> AsyncGenerator[Any, None]:
        """Serves a call whose answer is a stream of messages."""
        call = call or Call()
        with self.observe(method, call, {}):
            messages: Any = self.call(method, request, call)
            async with contextlib.aclosing(messages):
                async for message in messages:
                    yield message

    # ── threads ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _loaded(self, name: str, path: str, background: bool = False) -> Served:
        """Reads and compiles a model on a thread.

        background: compiles every program, at a low priority; otherwise only those that the start waits for.
        """

        def load() -> Served:
            load_checkpoint = self._load or engine_load()
            self.startup.reading(name)
            engine, tokenizer = load_checkpoint(self.settings, path)
            self.metrics.watch(name, engine.progress)
            self.startup.compiling(name, partial(engine.progress, True))
            engine.compile(self._stopping.is_set, background)
            if self._stopping.is_set():
                raise Unavailable("the runtime has ended", RETRY_WHILE_LOADING)
            closed = [bucket.name for bucket in engine.buckets if bucket not in engine.open]
            if background and closed:
                raise RuntimeError(f"no program could be compiled for {', '.join(closed)}")
            if tokenizer is None:
                usable = served_by_ids(engine.description.tasks)
                log.warning("the checkpoint has no tokenizer; it can serve: %s", usable, extra={"model": name})
            text = Text(tokenizer, engine.description.source_tokens) if tokenizer else None
            return Served(name, engine, text)

        return await self.in_thread(load, f"loader-{name}")

    def _watch(self) -> None:
        """Ends the scheduler when a call of the device does not return. Python cannot interrupt such a call."""
        limit = self.settings.device_timeout
        while not self._stopping.wait(min(1.0, limit / 4)):
            seconds = self.scheduler.longest_call()
            if seconds > limit:
                self.scheduler.abandon(TimeoutError(f"a call of the device has not returned for {seconds:.0f} s"))
                return

    def _compile_background(self, engines: Sequence[Engine]) -> None:
        """Compiles the programs that the start did not wait for, one at a time."""
        for engine in engines:
            engine.compile(partial(self._unwanted, engine), background=True)

    def _unwanted(self, engine: Engine) -> bool:
        """Whether no further program of this engine is needed."""
        return self._stopping.is_set() or not self.scheduler.serves(engine)

    def in_thread(self, work: Callable[[], Result], name: str) -> "asyncio.Future[Result]":
        """The result of `work` on a thread of its own, which does not keep the process from ending."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if future.cancelled():
                return
            if error:
                future.set_exception(error)
            else:
                future.set_result(result)

        def run() -> None:
            result, error = None, None
            try:
                result = work()
            except Exception as caught:
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits for the result
                loop.call_soon_threadsafe(settle, result, error)

        self._spawn(run, name)
        return future

    def _spawn(self, target: Callable[[], None], name: str) -> None:
        """Starts a thread that does not keep the process from ending."""
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]

    def _died(self, on_death: Callable[[BaseException], None], error: BaseException) -> None:
        """Logs that the scheduler has ended by an error, and calls `on_death`.

        Called on a worker's thread or the watchdog's.
        """
        log.critical("the scheduler died", exc_info=error)
        self.metrics.ready(False)
        on_death(error)


def engine_load() -> Load:
    """The engine's loader. Imports jax, so it is called only when a model is loaded."""
    from bart_server.engine.load import load

    return load


def limits(settings: Settings) -> Limits:
    """The limits that the services check, taken from the settings."""
    return Limits(
        text_bytes=settings.max_text_bytes,
        windows=settings.max_windows,
        batch_items=settings.max_batch_items,
        labels=settings.max_labels,
        label_bytes=settings.max_label_bytes,
        options_bytes=settings.max_options_bytes,
    )
