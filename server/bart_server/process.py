"""What belongs to a process: a port for the runtime, signals, and an exit status.

    listen      the port is open, health says NOT_SERVING, calls get UNAVAILABLE
    load        the platform is claimed, checkpoints are read, every program is compiled
    serve       health says SERVING; the scheduler's workers drive the devices
    drain       after SIGTERM: health says NOT_SERVING, new calls get UNAVAILABLE, what is in flight may end within the
                grace

A second SIGTERM, a spent grace, an unreadable checkpoint or a dead scheduler end it at once with a status other than 0.
"""

import asyncio
import contextlib
import dataclasses
import enum
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator

import prometheus_client

from bart_server.runtime import Load, Runtime
from bart_server.settings import Settings, SettingsError, address_of
from bart_server.telemetry import logs, tracing
from bart_server.telemetry.metrics import Metrics
from bart_server.telemetry.tracing import Tracer
from bart_server.transport.grpc_server import GrpcServer

log = logging.getLogger(__name__)
LAST_WORDS = 1.0  # seconds for answers that are on the wire when nothing is in flight any more


class Exit(enum.IntEnum):
    """The process's exit status."""

    DRAINED = 0
    CUT_OFF = 1  # requests were still in work
    USAGE = 2
    NOT_LOADED = 3
    BROKEN = 4  # the scheduler died


class Process:
    """One server. load: as the Runtime's; with None the process claims jax's platform before anything is loaded."""

    def __init__(self, settings: Settings, load: Load | None = None, tracer: Tracer | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.runtime = Runtime(settings, load, metrics=self.metrics, tracer=tracer, on_death=self._died)
        self.port = 0
        self.metrics_port = 0
        self._claims_platform = load is None
        self._serve_first: Callable[[], None] = lambda: None
        self._end: asyncio.Future[Exit | None] | None = None  # None: drain
        self._again = asyncio.Event()  # a second signal

    async def run(self, started: Callable[[], None] = lambda: None) -> Exit:
        """Serves until `stop` is called or something breaks. started: called when the port is open."""
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.create_future()
        server = GrpcServer(self.settings, self.runtime)
        self.health, self.port = server.health, server.port
        with self._metrics_server():
            await server.start()
            started()
            address = f"{self.settings.host}:{self.port}"
            log.info("listening", extra={"address": address, "tls": bool(self.settings.tls_cert)})
            loading = asyncio.create_task(self._load(address))
            end = await self._end
            loading.cancel()
            if end is None:
                end = await self._drain()
            self.health.set(False)
            await server.stop(LAST_WORDS if end is Exit.DRAINED else 0)
            self.runtime.close()
        log.info("ended", extra={"exit": end.name.lower()})
        return end

    def stop(self) -> None:
        """Drains; called again, ends at once. From the event loop."""
        self._finish(None)

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT call `stop`."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)

    async def _load(self, address: str) -> None:
        try:
            if self._claims_platform:
                await self.runtime.in_thread(self._set_platform, "platform")
            await self.runtime.start()
        except Exception as error:
            log.error("not loaded: %s", error, exc_info=log.isEnabledFor(logging.DEBUG))
            self._finish(Exit.NOT_LOADED)
            return
        if self._claims_platform:
            gc.collect()
            gc.freeze()  # what is left stays: every later collection would stop all threads to look through it
        self._serve_first()
        self.health.set(True)
        log.info("ready", extra={"address": address, "models": self.runtime.revisions()})

    def _set_platform(self) -> None:
        from bart_server.engine import platform  # jax is only imported to serve, not for --help

        self._serve_first = platform.set_up(self.settings, self.metrics.compiled)

    async def _drain(self) -> Exit:
        log.info("draining", extra={"grace": self.settings.grace})
        self.health.set(False)
        drained = await self.runtime.drain(self.settings.grace, until=self._again.is_set)
        return Exit.DRAINED if drained else Exit.CUT_OFF

    def _died(self, error: BaseException) -> None:
        """On a worker's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._finish, Exit.BROKEN)

    def _finish(self, status: Exit | None) -> None:
        assert self._end is not None
        if status is not None:
            self.health.set(False)
        if self._end.done():
            self._again.set()
        else:
            self._end.set_result(status)

    @contextlib.contextmanager
    def _metrics_server(self) -> Iterator[None]:
        if self.settings.metrics == "off":
            yield
            return
        host, port = address_of(self.settings.metrics)
        server, thread = prometheus_client.start_http_server(port, host, self.metrics.registry)
        self.metrics_port = server.server_port
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


async def serve(settings: Settings, load: Load | None) -> tuple[Exit, bool]:
    """The exit status, and whether a thread is still inside the device's library."""
    process = Process(settings, load, tracing.otlp() if settings.trace else None)
    return await process.run(process.handle_signals), process.runtime.busy()


def run(settings: Settings, load: Load | None = None) -> None:
    """Serves, and ends the process."""
    logs.set_up(settings.log_level)
    log.info("settings", extra={"settings": dataclasses.asdict(settings)})
    try:
        status, busy = asyncio.run(serve(settings, load))
    except (SettingsError, RuntimeError, OSError) as error:  # RuntimeError: grpc cannot bind the port
        print(f"bart_server: {error}", file=sys.stderr)
        sys.exit(Exit.USAGE)
    logging.shutdown()
    if busy:  # a compilation or a device call cannot be interrupted; nothing waits for it
        os._exit(status)
    sys.exit(status)
