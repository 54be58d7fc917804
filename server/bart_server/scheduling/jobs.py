"""What the scheduler keeps: an engine at work, a request in flight, a running batch, and a call's places."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bart_server.scheduling.contract import Bucket, Deliver, Engine, Open, Request


@dataclass(eq=False)
class Revision:
    """An engine at work. queues: a heap of waiting jobs for each bucket. open: `engine.open` as last seen.

    places: reserved and not yet released. jobs: waiting and running. removed: it takes no new reservations.
    """

    model: str
    engine: Engine
    open: Open
    queues: dict[Bucket, list["Job"]]
    places: int = 0
    jobs: int = 0
    removed: bool = False


@dataclass(eq=False)
class Job:
    """An admitted request.

    bucket: where it waits or runs. due: orders the queue, with `order` between equals. sent: how many tokens were
    delivered. ended: whether its last event was delivered, or it was cancelled. Times are of the scheduler's clock:
    deadline is None without one, started 0 before the encoder.
    """

    revision: Revision
    request: Request
    bucket: Bucket
    deliver: Deliver
    arrived: float
    deadline: float | None
    due: float
    order: int
    started: float = 0.0
    sent: int = 0
    ended: bool = False

    def __lt__(self, other: "Job") -> bool:
        return (self.due, self.order) < (other.due, other.order)


@dataclass(eq=False)
class Batch:
    """A shape bucket at work on a worker. work: the engine's Once or Decode, as the bucket's kind is.

    waiting: the bucket's queue, shared with the other workers. jobs: one entry for each row of the state.
    """

    revision: Revision
    bucket: Bucket
    worker: int
    work: Any
    waiting: list[Job]
    state: Any = None
    jobs: list[Job | None] = field(default_factory=list)

    def live(self) -> list[int]:
        """The rows in use; a job that ended early holds its row until the next iteration."""
        return [row for row, job in enumerate(self.jobs) if job]

    def sizes(self) -> tuple[int, ...]:
        """The row counts that are open now."""
        return self.revision.engine.open.get(self.bucket, ())


def make_batches(revision: Revision, worker: int) -> list[Batch]:
    """A worker's batches of an engine, empty."""
    engine = revision.engine
    return [Batch(revision, bucket, worker, engine.work(bucket), queue) for bucket, queue in revision.queues.items()]


def without_idle(batches: Sequence[Batch], revision: Revision) -> tuple[Batch, ...]:
    """The batches but those of `revision` that hold no state."""
    return tuple(batch for batch in batches if batch.revision is not revision or batch.jobs)


def fit(rows: int, sizes: Sequence[int]) -> int:
    """The smallest row count that holds so many rows."""
    return next(size for size in sizes if size >= rows)


class Reservation:
    """Places for requests to one engine, from before they are tokenized until `release` (or the end of its with block).

    arrived: when they were taken, of the scheduler's clock.
    """

    def __init__(self, revision: Revision, arrived: float, release: Callable[[], None]) -> None:
        self.revision = revision
        self.arrived = arrived
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        release, self._release = self._release, None
        if release:
            release()

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
