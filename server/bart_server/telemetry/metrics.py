"""Defines the Prometheus metrics. Each server has a registry of its own, so that a process can run several servers."""

import logging
import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bart_server.scheduling.contract import Bucket, Progress
from bart_server.scheduling.observer import Observer
from bart_server.telemetry import logs

log = logging.getLogger(__name__)
# The upper bounds of histogram buckets.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics(Observer):
    """The server's metrics, and the scheduler's observer that sets them.

    Names begin with bart_; times are in seconds.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._calls = Counter("bart_calls", "Calls that ended.", ["method", "code"], registry=registry)
        self._active = Gauge("bart_calls_active", "Calls in progress.", ["method"], registry=registry)
        Gauge(
            "bart_log_lines_lost", "Log lines dropped because the log was read too slowly.", registry=registry
        ).set_function(logs.lost)
        self._children: dict[tuple[Counter, tuple[str, ...]], Counter] = {}
        self._unread = Gauge("bart_calls_unread", "Calls whose message was not read yet.", registry=registry)
        self._latency = Histogram(
            "bart_call_seconds",
            "From the call's arrival to the end of its answer.",
            ["method"],
            buckets=SECONDS,
            registry=registry,
        )
        self._requests = Gauge("bart_requests", "Requests in flight, waiting ones included.", registry=registry)
        self._cost = Gauge("bart_cost", "Padded tokens x beams in flight.", registry=registry)
        self._waiting = Gauge("bart_waiting", "Requests that wait for a row.", registry=registry)
        self._refused = Counter("bart_refused", "Requests not admitted.", ["reason"], registry=registry)
        self._failed = Counter("bart_failed", "Admitted requests without an answer.", ["reason"], registry=registry)
        self._faults = Counter("bart_device_faults", "Device calls that raised.", registry=registry)
        self._rows = Gauge("bart_rows", "Rows in use.", ["model", "lane", "worker"], registry=registry)
        self._size = Gauge(
            "bart_rows_size", "Row count of the running batch.", ["model", "lane", "worker"], registry=registry
        )
        self._tokens = Counter("bart_tokens", "Tokens answered.", ["model"], registry=registry)
        self._encoded = Histogram(
            "bart_encoder_batch", "Sources of one encoder call.", ["model"], buckets=SIZES, registry=registry
        )
        self._stage = Histogram(
            "bart_stage_seconds",
            "queue: arrival to encoder. compute: encoder to last token. encode, step: one call of the device.",
            ["model", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._programs = Gauge(
            "bart_programs",
            "compiled: programs that exist. wanted: these and those that are still to be compiled.",
            ["model", "state"],
            registry=registry,
        )
        self._compiles = Counter("bart_compiles", "Programs compiled.", registry=registry)
        self._late_compiles = Counter(
            "bart_compiles_after_ready", "Programs compiled after READY, while requests are served.", registry=registry
        )
        self._waited = Counter(
            "bart_requests_waited_for_compilation",
            "Requests that waited for a compilation; 0 is promised.",
            registry=registry,
        )
        self._oversized = Counter(
            "bart_requests_oversized",
            "Requests that ran on a larger program than the best one, which was not compiled yet.",
            ["model"],
            registry=registry,
        )
        self._thread = threading.local()  # .requests: how many requests wait for the thread's call of an engine
        self._ready = Gauge("bart_ready", "1 when serving.", registry=registry)
        self._serving = False

    def call_began(self, method: str) -> None:
        """Counts a call that is in progress from now on."""
        self._active.labels(method).inc()

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        """Counts a call that ended with the status `code`, and records that it took `seconds`."""
        self._active.labels(method).dec()
        self._calls.labels(method, code).inc()
        self._latency.labels(method).observe(seconds)

    def call_refused(self, method: str, code: str) -> None:
        """Counts a call that was refused before its message was read. Such calls are not logged."""
        self._count(self._calls, method, code)

    def _count(self, counter: Counter, *labels: str) -> None:
        """Adds 1 to the child of a counter that has these labels.

        The children are kept, because finding one by its labels takes as long as the rest of a refusal.
        """
        key = counter, labels
        if key not in self._children:
            self._children[key] = counter.labels(*labels)
        self._children[key].inc()

    def unread(self, calls: int) -> None:
        """Sets the number of calls that have a place and whose message is not read yet."""
        self._unread.set(calls)

    def watch(self, model: str, progress: Callable[[], Progress]) -> None:
        """Sets the function that is asked for a model's progress whenever the metrics are read."""
        self._programs.labels(model, "compiled").set_function(lambda: progress().compiled)
        self._programs.labels(model, "wanted").set_function(lambda: progress().wanted)

    def ready(self, serving: bool) -> None:
        """Sets whether the server is serving."""
        self._serving = serving
        self._ready.set(int(serving))

    def compiled(self) -> None:
        """Counts a program that was compiled on the calling thread, and the requests that waited for it."""
        self._compiles.inc()
        if self._serving:
            self._late_compiles.inc()
        self._waited.inc(getattr(self._thread, "requests", 0))

    def queued(self, requests: int, cost: int, waiting: int) -> None:
        self._requests.set(requests)
        self._cost.set(cost)
        self._waiting.set(waiting)

    def refused(self, reason: str) -> None:
        self._count(self._refused, reason)

    def calling(self, requests: int) -> None:
        self._thread.requests = requests

    def encoded(self, model: str, bucket: Bucket, requests: int, seconds: float) -> None:
        self._encoded.labels(model).observe(requests)
        self._stage.labels(model, "encode").observe(seconds)

    def oversized(self, model: str, requests: int) -> None:
        self._oversized.labels(model).inc(requests)

    def stepped(self, model: str, bucket: Bucket, worker: int, live: int, size: int, seconds: float) -> None:
        self._rows.labels(model, bucket.name, worker).set(live)
        self._size.labels(model, bucket.name, worker).set(size)
        if size:
            self._stage.labels(model, "step").observe(seconds)

    def finished(self, model: str, bucket: Bucket, tokens: int, queued: float, computed: float) -> None:
        self._tokens.labels(model).inc(tokens)
        self._stage.labels(model, "queue").observe(queued)
        self._stage.labels(model, "compute").observe(computed)

    def faulted(self, error: Exception) -> None:
        log.error("device call failed", exc_info=error)
        self._faults.inc()

    def failed(self, model: str, bucket: Bucket, reason: str) -> None:
        self._failed.labels(reason).inc()
