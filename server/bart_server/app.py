"""From settings to a server that is up, and down again.

    listen      the port is open, health says NOT_SERVING, calls get UNAVAILABLE
    load        in a thread: checkpoints, then every program is compiled
    serve       health says SERVING; the scheduler's workers drive the devices
    drain       after SIGTERM: health says NOT_SERVING, new calls get UNAVAILABLE, work in hand may end within the grace

A second SIGTERM, a spent grace, an unreadable checkpoint or a dead scheduler end it at once with a status other than 0.
"""

import asyncio
import contextlib
import enum
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import prometheus_client
from google.protobuf.message import Message

from bart_server.scheduling.admission import Budget
from bart_server.scheduling.scheduler import Scheduler
from bart_server.services.call import Call
from bart_server.services.limits import Limits
from bart_server.services.methods import Answer, Services
from bart_server.services.models import Models, Served
from bart_server.services.status import code_of
from bart_server.settings import Config, address_of
from bart_server.telemetry.metrics import Metrics
from bart_server.telemetry.tracing import Tracer
from bart_server.transport.grpc_server import GrpcServer

log = logging.getLogger(__name__)
LAST_WORDS = 1.0  # seconds for answers that are on the wire when the house is empty
Load = Callable[[Config, Metrics, Callable[[], bool]], list[Served]]


class Exit(enum.IntEnum):
    """The process's exit status."""

    DRAINED = 0
    CUT_OFF = 1  # requests were still in work
    USAGE = 2
    NOT_LOADED = 3
    BROKEN = 4  # the scheduler died


class App:
    """One server. load: reads and compiles the models, in a thread; returns early when its third argument says so."""

    def __init__(self, config: Config, load: Load, tracer: Tracer | None = None) -> None:
        self.config = config
        self.metrics = Metrics()
        self.models = Models()
        self.scheduler = Scheduler(
            Budget(config.max_requests, config.max_cost),
            config.chunk,
            self.metrics,
            on_death=self._died,
            workers=config.workers,
        )
        self.port = 0
        self.metrics_port = 0
        self._load = load
        self._tracer = tracer or Tracer()
        self._end: asyncio.Future[Exit | None] | None = None  # None: drain
        self._again = asyncio.Event()  # a second signal
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    async def run(self, started: Callable[[], None] = lambda: None) -> Exit:
        """Serves until `stop` is called or something breaks. started: called when the port is open."""
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.create_future()
        pool = ThreadPoolExecutor(self.config.tokenizer_threads, thread_name_prefix="tokenizer")
        self._services = Services(self.models, self.scheduler, pool, limits(self.config))
        server = GrpcServer(self.config, self)
        self.health, self.port = server.health, server.port
        with self._metrics_server():
            await server.start()
            started()
            log.info(
                "listening", extra={"address": f"{self.config.host}:{self.port}", "tls": bool(self.config.tls_cert)}
            )
            self._spawn(self._load_models, "loader")
            end = await self._end
            self._stopping.set()
            if end is None:
                end = await self._drain()
            self._unready()
            await server.stop(LAST_WORDS if end is Exit.DRAINED else 0)
            self.scheduler.stop()
            for thread in self._threads:
                thread.join(LAST_WORDS)
            pool.shutdown(wait=False, cancel_futures=True)
        log.info("ended", extra={"exit": end.name.lower()})
        return end

    def stop(self) -> None:
        """Drains; called again, ends at once. From the event loop."""
        assert self._end is not None
        if self._end.done():
            self._again.set()
        else:
            self._end.set_result(None)

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT call `stop`."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)

    def busy(self) -> bool:
        """Whether a thread is still inside the device's library, which cannot be interrupted."""
        return any(thread.is_alive() for thread in self._threads)

    def call(self, method: str, message: Message, call: Call) -> Answer:
        """See `Services.call`."""
        return self._services.call(method, message, call)

    @contextlib.contextmanager
    def observe(self, method: str, call: Call, headers: Mapping[str, Any]) -> Iterator[None]:
        """One call's metrics, its log line and its trace. headers: may hold the caller's `traceparent`."""
        began, code = time.perf_counter(), "CANCELLED"
        self.metrics.call_began(method)
        try:
            with self._tracer.call(method, headers, call.facts):
                yield
            code = "OK"
        except Exception as error:
            code = code_of(error)
            if code == "INTERNAL":
                log.exception("call failed", extra={"request_id": call.request_id})
            raise
        finally:
            seconds = time.perf_counter() - began
            self.metrics.call_ended(method, code, seconds)
            log.info("call", extra={**call.facts, "code": code, "seconds": round(seconds, 6)})

    @contextlib.contextmanager
    def _metrics_server(self) -> Iterator[None]:
        if self.config.metrics == "off":
            yield
            return
        host, port = address_of(self.config.metrics)
        server, thread = prometheus_client.start_http_server(port, host, self.metrics.registry)
        self.metrics_port = server.server_port
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _load_models(self) -> None:
        """On the loader's thread."""
        try:
            served = self._load(self.config, self.metrics, self._stopping.is_set)
        except Exception as error:
            log.error("not loaded: %s", error, exc_info=log.isEnabledFor(logging.DEBUG))
            self._call(self._finish, Exit.NOT_LOADED)
            return
        if not self._stopping.is_set():
            self._call(self._serve, served)

    def _serve(self, served: list[Served]) -> None:
        if self._stopping.is_set():
            return
        for model in served:
            self.scheduler.add(model.name, model.engine)
        for worker in range(self.config.workers):
            self._spawn(partial(self.scheduler.run, worker), f"worker-{worker}")
        self.models.publish({model.name: model for model in served})
        self.metrics.ready(True)
        self.health.set(True)
        revisions = {model.name: model.engine.description.revision for model in served}
        log.info("ready", extra={"address": f"{self.config.host}:{self.port}", "models": revisions})

    async def _drain(self) -> Exit:
        log.info("draining", extra={"grace": self.config.grace})
        self._unready()
        self.scheduler.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.grace):
                while not self.scheduler.idle() and not self._again.is_set():
                    await asyncio.sleep(0.01)
        return Exit.DRAINED if self.scheduler.idle() else Exit.CUT_OFF

    def _unready(self) -> None:
        self.metrics.ready(False)
        self.health.set(False)

    def _died(self, error: BaseException) -> None:
        """On a worker's thread."""
        log.critical("the scheduler died", exc_info=error)
        self._call(self._finish, Exit.BROKEN)

    def _finish(self, status: Exit) -> None:
        assert self._end is not None
        self._unready()
        if self._end.done():
            self._again.set()
        else:
            self._end.set_result(status)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """On the event loop, from any thread; nothing if it is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _spawn(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()


def limits(config: Config) -> Limits:
    return Limits(
        text_bytes=config.max_text_bytes,
        windows=config.max_windows,
        batch_items=config.max_batch_items,
        labels=config.max_labels,
        label_bytes=config.max_label_bytes,
    )
