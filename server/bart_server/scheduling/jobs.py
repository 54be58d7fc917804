"""What the scheduler keeps: an engine at work, a request in flight, a running batch, and a call's places."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bart_server.scheduling.contract import Bucket, Deliver, Engine, Open, Request
from bart_server.scheduling.errors import RequestError


@dataclass(eq=False)
class Revision:
    """An engine at work. queues: the waiting jobs of each bucket. open: `engine.open` as last seen.

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

    bucket: where it waits or runs. due: orders a client's requests, with `order` between equals. sent: how many tokens
    were delivered. running: whether it has left the queue. ended: whether its last event was delivered, or it was
    cancelled. Times are of the scheduler's clock: deadline is None without one, started 0 before the encoder.
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


@dataclass(eq=False)
class Reservation:
    """A call's places: one for each request that it brings, from before it is read until it has ended.

    client: who calls, in words that only the transport understands. revision: the engine's that the places are for;
    None until the call was read. count: places that are held, for jobs or for what has not been submitted yet. jobs:
    how many of them are in flight. revoke: called, on any thread, when the call has to give way.
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
        """Gives places back; None: all of them. Does nothing when none is left."""
        self.give_back(self, self.count if count is None else count)

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
