"""What the scheduler tells about its work. The base class ignores it; `metrics` counts it."""

from bart_server.scheduling.contract import Bucket


class Observer:
    """Called on a worker's thread, except `refused` and `queued`, which are called on the caller's."""

    def queued(self, requests: int, cost: int, waiting: int) -> None:
        """What is in flight has changed: requests and cost admitted, and how many wait for a row."""

    def refused(self, reason: str) -> None:
        """A request was not admitted: its error's class name."""

    def calling(self, requests: int) -> None:
        """The calling thread is about to call an engine for so many requests; 0: the call has ended."""

    def encoded(self, model: str, bucket: Bucket, requests: int, seconds: float) -> None:
        """Sources went through the encoder, or through a whole task of the kind ONCE."""

    def oversized(self, model: str, requests: int) -> None:
        """So many requests run on a larger program than the best one, which is not compiled yet."""

    def stepped(self, model: str, bucket: Bucket, worker: int, live: int, size: int, seconds: float) -> None:
        """A worker decoded a chunk with `live` of `size` rows in use. 0 of 0: its batch is gone."""

    def finished(self, model: str, bucket: Bucket, tokens: int, queued: float, computed: float) -> None:
        """A request was answered. queued, computed: seconds."""

    def faulted(self, error: Exception) -> None:
        """A call of an engine raised."""

    def failed(self, model: str, bucket: Bucket, reason: str) -> None:
        """An admitted request ended without an answer: the error's class name."""
