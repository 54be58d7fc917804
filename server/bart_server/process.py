"""Runs a server as a process: its port, its signals and its exit status. A server goes through four stages:

    listen      the port is open, health says NOT_SERVING, calls get UNAVAILABLE
    load        jax's platform is started, checkpoints are read, programs are compiled
    serve       health says SERVING; the scheduler's workers drive the devices
    drain       after SIGTERM: health says NOT_SERVING; calls are still served for `drain_pause` seconds, then new calls
                get UNAVAILABLE, and calls in flight have `grace` seconds to end

A second SIGTERM or the end of the grace period ends the process at once, with status 1 if calls were in flight. A
checkpoint that cannot be loaded, or an error of the scheduler, ends it with the status in `Exit`.
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
from bart_server.telemetry import logs, startup, tracing
from bart_server.telemetry.metrics import Metrics
from bart_server.telemetry.tracing import Tracer
from bart_server.transport.grpc_server import GrpcServer

log = logging.getLogger(__name__)
SEND_TIMEOUT = 1.0  # seconds in which gRPC may still send answers after the last request has ended


class Exit(enum.IntEnum):
    """The process's exit status."""

    DRAINED = 0  # every request in flight was answered
    CUT_OFF = 1  # requests were still in flight
    USAGE = 2  # a setting cannot be used
    NOT_LOADED = 3  # a model cannot be loaded
    BROKEN = 4  # the scheduler ended by an error


class Process:
    """One server, from its open port to its exit status. It belongs to one event loop.

    load: reads the model of a path. If None, the process chooses jax's platform and models are read by
    `bart_server.engine.load`. terminal: where the progress of the start is drawn; if None, it is written to the log.
    """

    def __init__(
        self,
        settings: Settings,
        load: Load | None = None,
        tracer: Tracer | None = None,
        terminal: logs.LineWriter | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.runtime = Runtime(settings, load, metrics=self.metrics, tracer=tracer, on_death=self._died)
        self.port = 0
        self.metrics_port = 0
        self._terminal = terminal
        self._claims_platform = load is None
        self._serve_first: Callable[[], None] = lambda: None  # called when serving begins; slows compilation down
        self._end: asyncio.Future[Exit | None] | None = None  # done when the server is to end; None: drain first
        self._reloading: asyncio.Task[None] | None = None  # a reference, because asyncio holds none
        self._end_now = asyncio.Event()  # set when the server is told to end while it drains

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
            await server.stop(SEND_TIMEOUT if end is Exit.DRAINED else 0)
            self.runtime.close()
        log.info("ended", extra={"exit": end.name.lower()})
        return end

    def stop(self) -> None:
        """Begins to drain; a second call ends the process at once. Called on the event loop."""
        self._finish(None)

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT call `stop`, SIGHUP calls `reload`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    def reload(self) -> None:
        """Loads every model again from its path and serves the new revisions. Called on the event loop."""
        self._reloading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        try:
            for name in self.runtime.revisions():
                await self.runtime.replace(name)
        except Exception as error:  # the old revision is still served
            log.error("not reloaded: %s", error, exc_info=log.isEnabledFor(logging.DEBUG))

    async def _load(self, address: str) -> None:
        """Loads the models and begins to serve, or ends the process with the status that says why it cannot."""
        try:
            async with startup.show_progress(self.runtime.startup, self._terminal):
                if self._claims_platform:
                    await self.runtime.in_thread(self._set_platform, "platform")
                await self.runtime.start()
        except SettingsError as error:
            log.error("%s", error)
            self._finish(Exit.USAGE)
            return
        except Exception as error:
            log.error("not loaded: %s", error, exc_info=log.isEnabledFor(logging.DEBUG))
            self._finish(Exit.NOT_LOADED)
            return
        if self._claims_platform:
            gc.collect()
            gc.freeze()  # what is loaded stays; otherwise every later collection would stop all threads to traverse it
        self._serve_first()
        self.health.set(True)
        models, layouts = self.runtime.revisions(), self.runtime.layouts()
        log.info("ready", extra={"address": address, "models": models, "layouts": layouts})

    def _set_platform(self) -> None:
        """Starts jax's platform. Raises RuntimeError if it is not there."""
        from bart_server.engine import platform  # imported here, so that --help does not import jax

        self._serve_first = platform.set_up(self.settings, self.metrics.compiled)

    async def _drain(self) -> Exit:
        """Waits for the calls in flight, for at most the grace period. Returns the exit status."""
        log.info("draining", extra={"grace": self.settings.grace})
        self.health.set(False)
        with contextlib.suppress(TimeoutError):  # load balancers see NOT_SERVING and send new calls elsewhere
            await asyncio.wait_for(self._end_now.wait(), self.settings.drain_pause)
        drained = await self.runtime.drain(self.settings.grace, until=self._end_now.is_set)
        return Exit.DRAINED if drained else Exit.CUT_OFF

    def _died(self, error: BaseException) -> None:
        """Ends the process after an error of the scheduler. Called on one of the runtime's threads."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._finish, Exit.BROKEN)

    def _finish(self, status: Exit | None) -> None:
        """Makes `run` return this status, or drain first if it is None. A second call ends draining."""
        assert self._end is not None
        if status is not None:
            self.health.set(False)
        if status is Exit.BROKEN:
            self.health.alive = False
        if self._end.done():
            self._end_now.set()
        else:
            self._end.set_result(status)

    @contextlib.contextmanager
    def _metrics_server(self) -> Iterator[None]:
        """Serves the metrics over HTTP, on a thread, while the block runs; does nothing if they are switched off."""
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


async def serve(settings: Settings, load: Load | None, terminal: logs.LineWriter | None) -> tuple[Exit, bool]:
    """Serves until the end.

    Returns the exit status, and whether a thread is still in a call that nothing can interrupt.
    """
    process = Process(settings, load, exporting_tracer() if settings.trace else None, terminal)
    return await process.run(process.handle_signals), process.runtime.busy()


def exporting_tracer() -> Tracer:
    """A tracer that exports spans by OTLP. Raises SettingsError if the packages of the extra `otel` are missing."""
    try:
        return tracing.otlp()
    except ModuleNotFoundError as error:
        raise SettingsError(f"--trace needs {error.name}: pip install 'bart-oneliner[otel]'") from None


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's event loop, on which a call takes less CPU time; asyncio's on Windows, where uvloop does not exist."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def yield_to_running_threads() -> None:
    """On Linux, a thread of this process that wakes up waits until the running thread's time slice ends.

    On a busy processor every arriving call would otherwise interrupt the computation. Threads inherit the policy. A
    policy that the operator has chosen stays, and so does the default where the system does not allow the change.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def run(settings: Settings, load: Load | None = None) -> None:
    """Serves, and ends the process with the server's exit status."""
    yield_to_running_threads()
    terminal = logs.set_up(settings.log_level)
    log.info("settings", extra={"settings": dataclasses.asdict(settings)})
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            status, busy = runner.run(serve(settings, load, terminal))
    except (SettingsError, RuntimeError, OSError) as error:  # RuntimeError: grpc cannot start
        log.error("%s", error)
        logging.shutdown()
        sys.exit(Exit.USAGE)
    logging.shutdown()
    if busy:  # a compilation or a call of the device cannot be interrupted, and sys.exit would wait for it
        os._exit(status)
    sys.exit(status)
