"""The scheduler's records: of an engine that is served, an admitted request, a running batch, and a call's places."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bart_server.scheduling.contract import Bucket, Deliver, Engine, Open, Request
from bart_server.scheduling.errors import RequestError


@dataclass(eq=False)
class Revision:
    """An engine that is served: one revision of a model.

    open: `engine.open` as the scheduler last saw it. queues: the waiting jobs of each bucket. places: how many are
    reserved. jobs: how many wait or run. removed: whether it takes no new reservations.
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

    bucket: the one in which it waits or runs. deliver: takes its events. due, order: a client's job with the earliest
    `due` runs first, and of equal ones the one with the lowest `order`. sent: how many tokens were delivered. running:
    whether it has left the queue. ended: whether its last event was delivered, or it was cancelled.

    Times are in seconds of the scheduler's clock. deadline: None if the call has none. started: when the encoder began.
    """

    reservation: "Reservation"
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
    running: bool = False
    ended: bool = False

    @property
    def client(self) -> str:
        return self.reservation.client

    @property
    def cost(self) -> int:
        return self.request.cost


@dataclass(eq=False)
class Batch:
    """A worker's running batch of one shape bucket.

    work: the engine's Once or Decode, by the bucket's kind. waiting: the bucket's queue, which all workers share.
    state: the engine's decoding state. jobs: the job of each row of that state, None for a free row.
    """

    revision: Revision
    bucket: Bucket
    worker: int
    work: Any
    waiting: list[Job]
    state: Any = None
    jobs: list[Job | None] = field(default_factory=list)

    def live(self) -> list[int]:
        """The rows that hold a job. A job that ended early, cancelled say, holds its row until the next iteration."""
        return [row for row, job in enumerate(self.jobs) if job]

    def sizes(self) -> tuple[int, ...]:
        """The row counts that are open now."""
        return self.revision.engine.open.get(self.bucket, ())


def make_batches(revision: Revision, worker: int) -> list[Batch]:
    """Empty batches for a worker: one for each bucket of the engine."""
    engine = revision.engine
    return [Batch(revision, bucket, worker, engine.work(bucket), queue) for bucket, queue in revision.queues.items()]


def without_idle(batches: Sequence[Batch], revision: Revision) -> tuple[Batch, ...]:
    """The batches without those of `revision` that hold no state."""
    return tuple(batch for batch in batches if batch.revision is not revision or batch.jobs)


def fit(rows: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes`, ascending row counts, that is at least `rows`."""
    return next(size for size in sizes if size >= rows)


@dataclass(eq=False)
class Reservation:
    """A call's places: one for each of its requests, held from before the call is read until the request has ended.

    client: an opaque name for the caller. arrived: when the call came. give_back: takes the reservation and a number of
    places. revision: the engine that the places are for; None until the call has been read. count: the places that are
    held. jobs: the submitted requests among them. revoked: the error with which the call lost its places to another
    client, if it did. revoke: called with that error, on any thread.
    """

    client: str
    arrived: float
    order: int
    give_back: Callable[["Reservation", int], None]
    revision: Revision | None = None
    count: int = 0
    jobs: int = 0
    revoked: RequestError | None = None
    revoke: Callable[[RequestError], None] = lambda error: None

    @property
    def due(self) -> float:
        return self.arrived

    @property
    def cost(self) -> int:
        return 0

    def release(self, count: int | None = None) -> None:
        """Gives `count` places back, or all that are left if it is None."""
        self.give_back(self, self.count if count is None else count)

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
