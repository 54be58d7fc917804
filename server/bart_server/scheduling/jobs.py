"""The scheduler's records: of a served engine, an admitted request, a running batch, and the places of a call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bart_server.scheduling.contract import Bucket, Deliver, Engine, Open, Request
from bart_server.scheduling.errors import RequestError


@dataclass(eq=False)
class Revision:
    """An engine that is served: one revision of a model.

    open: the value of `engine.open` by which jobs were last queued. queues: the waiting jobs of each bucket. places:
    how many places calls have reserved for it. jobs: how many jobs wait or run. removed: whether new reservations are
    refused, because a newer revision has replaced it or the model is gone.
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

    bucket: the shape bucket in which it waits or runs. deliver: takes its events. due, order: of a client's jobs, that
    with the lowest `due` runs first, and of equal ones that with the lowest `order`. sent: how many tokens were
    delivered. running: whether it has left the queue. ended: whether it was answered, refused or cancelled.

    Times are in seconds of the scheduler's clock. arrived: when its call came. deadline: None if the call has none.
    due: the deadline, or a time after its arrival if there is none. started: when it left the queue.
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
        """The rows that hold a job.

        A job that was cancelled or expired holds its row until the worker's next iteration.
        """
        return [row for row, job in enumerate(self.jobs) if job]

    def sizes(self) -> tuple[int, ...]:
        """The bucket's row counts that are open now, ascending."""
        return self.revision.engine.open.get(self.bucket, ())


def make_batches(revision: Revision, worker: int) -> list[Batch]:
    """Empty batches for a worker: one for each bucket of the engine."""
    engine = revision.engine
    return [Batch(revision, bucket, worker, engine.work(bucket), queue) for bucket, queue in revision.queues.items()]


def without_idle(batches: Sequence[Batch], revision: Revision) -> tuple[Batch, ...]:
    """These batches, except those of `revision` that have no state."""
    return tuple(batch for batch in batches if batch.revision is not revision or batch.jobs)


def fit(rows: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes`, ascending row counts, that is at least `rows`."""
    return next(size for size in sizes if size >= rows)


@dataclass(eq=False)
class Reservation:
    """The places of one call: one for each of its requests, from before its message is read until the request ends.

    client: an opaque name for the caller. arrived: when the call came, by the scheduler's clock. order: counts calls
    and jobs as they arrive. give_back: called to give places back, with the reservation and their number. revision: the
    engine that the places are for; None until the message has been read. count: the places that are held. jobs: how
    many of them belong to submitted requests. revoked: the error with which the call lost its places to another client,
    None if it has them. revoke: called with that error, on any thread.
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
        """Before the message is read, a call waits by its arrival (see fairness.Waiting)."""
        return self.arrived

    @property
    def cost(self) -> int:
        """Before the message is read, nothing is known of its cost."""
        return 0

    def release(self, count: int | None = None) -> None:
        """Gives `count` places back, or all that are left if it is None."""
        self.give_back(self, self.count if count is None else count)

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
