"""What the scheduler reports about its work. The base class ignores the reports; telemetry.metrics counts them."""

from bart_server.scheduling.contract import Bucket


class Observer:
    """Methods are called on a worker's thread; `refused`, `queued` and `failed` also on other threads."""

    def queued(self, requests: int, cost: int, waiting: int) -> None:
        """One of these has changed: requests and cost in flight, and how many requests wait for a row."""

    def refused(self, reason: str) -> None:
        """A request was not admitted. reason: the class name of its error."""

    def calling(self, requests: int) -> None:
        """The calling thread is about to call an engine for `requests` requests; 0: that call has ended."""

    def encoded(self, model: str, bucket: Bucket, requests: int, seconds: float) -> None:
        """One call of an engine encoded the sources of `requests` requests, or did a task of the kind ONCE for them."""

    def oversized(self, model: str, requests: int) -> None:
        """`requests` requests run on a larger program than the best one, which is not compiled yet."""

    def stepped(self, model: str, bucket: Bucket, worker: int, live: int, size: int, seconds: float) -> None:
        """A worker decoded a chunk with `live` of `size` rows in use. Both are 0 when its batch has ended."""

    def finished(self, model: str, bucket: Bucket, tokens: int, queued: float, computed: float) -> None:
        """A request was answered. queued, computed: seconds."""

    def faulted(self, error: Exception) -> None:
        """A call of an engine raised."""

    def failed(self, model: str, bucket: Bucket, reason: str) -> None:
        """An admitted request ended without an answer. reason: the class name of its error."""
