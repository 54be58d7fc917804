"""What the server's tests share: a gRPC server over the fake engine, a clock that only tests move, gates, mailboxes."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest
from bart_proto.v1 import bart_pb2_grpc
from bart_server.process import Exit, Process
from bart_server.runtime import Load, Runtime
from bart_server.scheduling.contract import Delta, Event, Failure, Finish
from bart_server.scheduling.scheduler import Scheduler
from bart_server.settings import Settings
from bart_server.telemetry.tracing import Tracer
from bart_server.transport.grpc_server import GrpcServer
from tokenizers import Tokenizer

from support.echo import FakeEngine
from support.tokenizer import byte_tokenizer

PATIENCE = 20.0  # seconds after which a test that still waits fails


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


class Mailbox:
    """Collects the events that the scheduler delivers for one request."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if not isinstance(event, Delta):
            self.ended.set()

    @property
    def deltas(self) -> list[tuple[int, ...]]:
        return [event.tokens for event in self.events if isinstance(event, Delta)]

    @property
    def finish(self) -> Finish:
        [finish] = [event for event in self.events if isinstance(event, Finish)]
        assert self.events[-1] is finish
        return finish

    @property
    def error(self) -> Exception:
        [failure] = self.events
        assert isinstance(failure, Failure)
        return failure.error


@contextlib.contextmanager
def working(scheduler: Scheduler, workers: int) -> Iterator[Callable[[], None]]:
    """Runs each worker of a scheduler on a thread. Yields a function that waits until all threads have ended.

    At the end of the block the scheduler is stopped and the threads end.
    """
    threads = [threading.Thread(target=scheduler.run, args=(worker,)) for worker in range(workers)]

    def join() -> None:
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)

    for thread in threads:
        thread.start()
    try:
        yield join
    finally:
        scheduler.stop()
        join()


class Gate:
    """A fake engine's `on_call` that stops a worker in one method, such as "step", until the test calls `open`."""

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, verb: str, requests: Any) -> None:
        if verb == self.verb:
            self.reached.set()
            assert self.opened.wait(PATIENCE)

    def wait(self) -> None:
        assert self.reached.wait(PATIENCE)

    def open(self) -> None:
        self.opened.set()


class Running:
    """A server on a thread of the test's process, with an event loop on that thread.

    engines: the engines that it serves, under the names echo, echo1 and so on. load: reads models, as for Runtime, in
    place of serving these engines.
    """

    def __init__(self, *engines: FakeEngine, load: Load | None = None, **settings: Any) -> None:
        self.engines = engines or (FakeEngine(),)
        tracer: Tracer | None = settings.pop("tracer", None)
        models = tuple(f"echo{index or ''}={index}" for index in range(len(self.engines)))
        fields = {
            "model": models,
            "host": "127.0.0.1",
            "port": 0,
            "metrics": "off",
            "chunk": 4,
            "drain_pause": 0.0,
        } | settings
        self.settings = Settings(**fields)
        self.process = Process(self.settings, load or self._load, tracer)
        self.runtime = self.process.runtime
        self.exit: Exit | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="server")
        self._thread.start()
        assert self._started.wait(PATIENCE)

    def _load(self, settings: Settings, path: str) -> tuple[FakeEngine, Tokenizer]:
        return self.engines[int(path)], byte_tokenizer()

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        try:
            self.exit = await self.process.run(self._started.set)
        finally:
            self._started.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.process.port}"

    def channel(self, **options: Any) -> grpc.Channel:
        return grpc.insecure_channel(self.address, options=[("grpc.enable_retries", 0), *options.items()])

    def ready(self) -> "Running":
        """Waits until the server's health is SERVING."""
        wait_until(lambda: self.process.health.serving or not self._thread.is_alive())
        assert self.process.health.serving
        return self

    def signal(self) -> None:
        """Does what SIGTERM does to a server's process."""
        self.loop.call_soon_threadsafe(self.process.stop)

    def join(self) -> Exit:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert self.exit is not None
        return self.exit

    def close(self) -> None:
        for _ in range(2):
            if self._thread.is_alive():
                try:
                    self.signal()
                except RuntimeError:
                    break
        self._thread.join(PATIENCE)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the metric's samples that have at least these labels."""
        samples = (sample for family in self.process.metrics.registry.collect() for sample in family.samples)
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


def wait_until(holds: Callable[[], Any]) -> None:
    """Waits until `holds()` is true, which another thread brings about; AssertionError after PATIENCE seconds."""
    deadline = threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        if holds():
            return
        deadline.wait(0.005)
    raise AssertionError(f"the condition did not become true within {PATIENCE:g} s")


@contextlib.asynccontextmanager
async def summarization_service(
    engine: FakeEngine, chunk: int, unread_limit: float, channel_options: Sequence[tuple[str, int]] = ()
) -> AsyncIterator[tuple[Any, Runtime]]:
    """A stub of a server in this event loop, and the server's runtime. Both are stopped even if the test fails."""
    settings = Settings(model=("echo=echo",), host="127.0.0.1", port=0, chunk=chunk)
    async with Runtime(settings, lambda settings, path: (engine, byte_tokenizer())) as runtime:
        server = GrpcServer(settings, runtime, unread_limit=unread_limit)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=channel_options) as channel:
                yield bart_pb2_grpc.SummarizationServiceStub(channel), runtime
        finally:
            await server.stop(0)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """A function that starts a server; all servers are ended after the test."""
    running: list[Running] = []

    def begin(*engines: FakeEngine, wait: bool = True, **settings: Any) -> Running:
        running.append(Running(*engines, **settings))
        return running[-1].ready() if wait else running[-1]

    yield begin
    for server in running:
        server.close()


@pytest.fixture
def stubs() -> Iterator[Callable[[Running], Any]]:
    """A function that makes stubs for the four services of a server, over one channel that is closed after the test."""
    channels: list[grpc.Channel] = []

    class Stubs:
        def __init__(self, server: Running) -> None:
            channels.append(channel := server.channel())
            self.summarization = bart_pb2_grpc.SummarizationServiceStub(channel)
            self.generation = bart_pb2_grpc.GenerationServiceStub(channel)
            self.classification = bart_pb2_grpc.ClassificationServiceStub(channel)
            self.models = bart_pb2_grpc.ModelServiceStub(channel)

    yield Stubs
    for channel in channels:
        channel.close()
