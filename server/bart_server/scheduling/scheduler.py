"""Continuous batching: who runs when. Pure Python; it is given engines and imports neither jax nor grpc.

Workers, each a thread, call `turn` again and again: while one waits for the device, another prepares work for it or
delivers what it computed, so that the device has no gaps. A worker has a batch of its own in every lane, and all take
from the same queues. A turn of a worker

    1. drops what was cancelled or is past its deadline, in the queue and in running rows,
    2. fills free rows of every lane with waiting requests, earliest deadline first, encoded together; the batch grows
       to the next compiled row count where needed,
    3. decodes one chunk of steps in every lane that has live rows: tokens are delivered, finished rows leave, and the
       batch shrinks to a smaller compiled row count when that is enough,
    4. runs the waiting classifications, one batch a lane.

So a request waits for at most one chunk when rows are free, and a cancelled one holds its rows for at most one chunk.
Requests without a deadline are due `PATIENCE` after their arrival, so nobody waits for ever.

A method of an engine that raises fails the requests it was called for, and nothing else; after `FAULTS` such calls in
succession, or any error of the scheduler's own, the workers end, every request fails, `on_death` is called.
"""

import contextlib
import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bart_server.scheduling.admission import Admission, Budget
from bart_server.scheduling.contract import (
    Deliver,
    Delta,
    Engine,
    Event,
    Failure,
    Finish,
    Hypothesis,
    Lane,
    Request,
    Task,
)
from bart_server.scheduling.errors import Cancelled, DeadlineExceeded, DeviceFault, RequestError, Unavailable
from bart_server.scheduling.observer import Observer

PATIENCE = 60.0  # seconds
FAULTS = 3
ELSEWHERE = 1.0  # seconds after which a draining or broken server's callers may find another one


@dataclass(eq=False)
class Job:
    """A request in the house. sent: tokens delivered so far. over: it has ended. Times are of the scheduler's clock."""

    model: str
    request: Request
    deliver: Deliver
    arrived: float
    deadline: float | None
    due: float
    order: int
    started: float = 0.0
    sent: int = 0
    over: bool = False

    def __lt__(self, other: "Job") -> bool:
        return (self.due, self.order) < (other.due, other.order)


@dataclass(eq=False)
class Batch:
    """A lane of one model, at work on a worker. waiting: a heap, all workers'. jobs: one entry a row of the state."""

    model: str
    engine: Engine
    lane: Lane
    worker: int
    waiting: list[Job]
    state: Any = None
    jobs: list[Job | None] = field(default_factory=list)

    def live(self) -> list[int]:
        """The rows in use; a job that ended early holds its row until the next turn."""
        return [row for row, job in enumerate(self.jobs) if job]

    def fit(self, rows: int) -> int:
        """The smallest compiled row count for so many rows."""
        return next(size for size in self.lane.sizes if size >= rows)


class Reservation:
    """Places for `count` requests, from before they are tokenised until `release` (or the end of its with block)."""

    def __init__(self, release: Callable[[], None], arrived: float) -> None:
        self._release: Callable[[], None] | None = release
        self.arrived = arrived

    def release(self) -> None:
        release, self._release = self._release, None
        if release:
            release()

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Scheduler:
    """See the module's docstring. Public methods may be called from any thread, `turn` and `run` from the worker's."""

    def __init__(
        self,
        budget: Budget,
        chunk: int = 8,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_death: Callable[[BaseException], None] = lambda error: None,
        workers: int = 1,
    ) -> None:
        self._waiting: dict[tuple[str, Lane], list[Job]] = {}
        self._batches: list[list[Batch]] = [[] for _ in range(workers)]  # of each worker
        self._chunk = chunk
        self._observer = observer or Observer()
        self._clock = clock
        self._on_death = on_death
        self._admission = Admission(budget)
        self._changed = threading.Condition()
        self._orders = itertools.count()
        self._jobs: set[Job] = set()  # queued and running
        self._draining = False
        self._stopped = False
        self._death: BaseException | None = None
        self._faults = 0  # engine calls that raised since the last step or classification that did not

    def add(self, model: str, engine: Engine) -> None:
        """Gives it an engine, before it runs. Raises ValueError if a request could never be admitted."""
        for lane in engine.lanes:
            most = (lane.source + lane.target) * lane.beams
            if most > self._admission.budget.cost:
                raise ValueError(f"lane {lane.name} needs a budget of {most}, it is {self._admission.budget.cost}")
            queue = self._waiting[model, lane] = []
            for worker, batches in enumerate(self._batches):
                batches.append(Batch(model, engine, lane, worker, queue))

    # ── from any thread ───────────────────────────────────────────────────────────────────────────────────────────────

    def reserve(self, count: int = 1) -> Reservation:
        """Takes places for requests that are about to be tokenised. Raises Overloaded or Unavailable."""
        with self._changed, self._counted():
            self._check_alive()
            if self._draining:
                raise Unavailable("the server is shutting down", ELSEWHERE)
            self._admission.enter(count)
            self._report()
        return Reservation(lambda: self._leave(count), self._clock())

    def submit(
        self, reservation: Reservation, model: str, request: Request, deliver: Deliver, deadline: float | None = None
    ) -> Job:
        """Admits a request that has its place, while draining too. Raises Overloaded or Unavailable.

        deliver: called with Deltas (if the request streams) and then one Finish or Failure, unless it is cancelled; on
        a worker's thread, so it must return at once. deadline: of the scheduler's clock.
        """
        now = self._clock()
        due = reservation.arrived + PATIENCE if deadline is None else deadline
        with self._changed, self._counted():
            self._check_alive()
            ahead = sum(job.request.cost for job in self._jobs if job.due <= due)
            self._admission.admit(request.cost, ahead, None if deadline is None else deadline - now)
            job = Job(model, request, deliver, reservation.arrived, deadline, due, next(self._orders))
            self._jobs.add(job)
            heapq.heappush(self._waiting[model, request.lane], job)
            self._report()
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Ends a job without an answer; its row is free before the next chunk. Does nothing if the job has ended."""
        with self._changed:
            if not job.over:
                self._end(job)
                self._observer.failed(job.model, job.request.lane, Cancelled.__name__)

    def drain(self) -> None:
        """From now on everything new is refused; what is in the house goes on."""
        with self._changed:
            self._draining = True

    def stop(self) -> None:
        """Ends `run` after the turns in progress; what is still in the house fails."""
        with self._changed:
            self._draining = self._stopped = True
            self._changed.notify_all()

    def idle(self) -> bool:
        """Whether the house is empty."""
        with self._changed:
            return self._admission.requests == 0 and not self._jobs

    def now(self) -> float:
        return self._clock()

    # ── on a worker's thread ──────────────────────────────────────────────────────────────────────────────────────────

    def run(self, worker: int = 0) -> None:
        """Takes turns until `stop`, or until a worker dies."""
        try:
            while self._wait(worker):
                self.turn(worker)
        except BaseException as error:
            with self._changed:
                first, self._death = self._death is None, self._death or error
                self._changed.notify_all()
            if first:
                self._on_death(error)
        finally:
            why = "the server is broken and about to end" if self._death else "the server is shutting down"
            with self._changed:
                left = list(self._jobs)
            self._fail(left, Unavailable(why, ELSEWHERE))

    def turn(self, worker: int = 0) -> bool:
        """One turn; False when there was nothing to do."""
        with self._changed:
            self._admission.speed.began(self._clock())
        self._expire()
        lanes = [self._advance(batch) for batch in self._batches[worker]]
        worked = any(lanes)
        with self._changed:
            self._admission.speed.ended(self._clock(), worked)
        if self._faults >= FAULTS:
            raise RuntimeError(f"{FAULTS} device calls in succession failed")
        return worked

    def _wait(self, worker: int) -> bool:
        """Sleeps until there is work for this worker or the end comes; False at the end."""
        with self._changed:
            while not (self._stopped or self._death):
                if any(self._waiting.values()) or any(batch.live() for batch in self._batches[worker]):
                    return True
                self._changed.wait()
            return False

    def _expire(self) -> None:
        now = self._clock()
        with self._changed:
            late = [job for job in self._jobs if job.deadline is not None and job.deadline <= now]
        self._fail(late, DeadlineExceeded("the deadline passed"))

    def _advance(self, batch: Batch) -> bool:
        """A lane's part of a turn; False when there was nothing to do."""
        try:
            return self._score(batch) if batch.lane.task is Task.CLASSIFY else self._decode(batch)
        except DeviceFault as fault:
            self._lose(batch, fault)
            return True

    def _decode(self, batch: Batch) -> bool:
        """Frees, fills, steps and harvests one lane; False when it is empty."""
        self._drop(batch)
        self._fill(batch)
        live = batch.live()
        if live:
            began = self._clock()
            with self._device(computes=True):
                batch.state, finished = batch.engine.step(batch.lane, batch.state, self._chunk)
            self._observer.stepped(
                batch.model, batch.lane, batch.worker, len(live), len(batch.jobs), self._clock() - began
            )
            self._stream(batch, [row for row in live if row not in finished])
            self._harvest(batch, finished)
        self._shrink(batch)
        return bool(live)

    def _drop(self, batch: Batch) -> None:
        """Frees the rows of jobs that were cancelled or expired."""
        rows = [row for row, job in enumerate(batch.jobs) if job and job.over]
        if rows:
            with self._device():
                batch.state = batch.engine.free(batch.lane, batch.state, rows)
            for row in rows:
                batch.jobs[row] = None

    def _fill(self, batch: Batch) -> None:
        """Encodes waiting requests and inserts them into free rows."""
        jobs = self._take(batch, batch.lane.rows - len(batch.live()))
        if not jobs:
            return
        began = self._clock()
        try:
            with self._device():
                encoded = batch.engine.encode(batch.lane, [job.request for job in jobs])
        except DeviceFault as fault:  # the running rows were not touched
            self._fail(jobs, fault)
            return
        self._observer.encoded(batch.model, batch.lane, len(jobs), self._clock() - began)
        try:
            self._insert(batch, encoded, jobs)
        except DeviceFault as fault:
            self._fail(jobs, fault)
            raise
        self._drop(batch)  # those that were cancelled while the encoder ran

    def _insert(self, batch: Batch, encoded: Any, jobs: Sequence[Job]) -> None:
        """Puts encoded jobs into the running batch, which grows if it has to, or into a new one."""
        live = batch.live()
        size = batch.fit(len(live) + len(jobs))
        if not live:
            with self._device():
                batch.state = batch.engine.blank(batch.lane, size)
            batch.jobs = [None] * size
        elif size > len(batch.jobs):
            self._resize(batch, live, size)
        rows = [row for row, job in enumerate(batch.jobs) if job is None][: len(jobs)]
        with self._device():
            batch.state = batch.engine.insert(batch.lane, batch.state, encoded, rows)
        for row, job in zip(rows, jobs, strict=True):
            batch.jobs[row] = job

    def _take(self, batch: Batch, count: int) -> list[Job]:
        """Up to `count` waiting jobs, those that are due first."""
        jobs: list[Job] = []
        with self._changed:
            while batch.waiting and len(jobs) < count:
                job = heapq.heappop(batch.waiting)
                if not job.over:
                    job.started = self._clock()
                    jobs.append(job)
            self._report()
        return jobs

    def _stream(self, batch: Batch, rows: Sequence[int]) -> None:
        """Delivers the tokens that have become final."""
        streams = [(row, job) for row in rows if (job := batch.jobs[row]) and job.request.stream]
        if not streams:
            return
        with self._device():
            prefixes = batch.engine.prefix(batch.lane, batch.state, [row for row, _ in streams])
        for (_, job), tokens in zip(streams, prefixes, strict=True):
            self._send(job, tokens)

    def _harvest(self, batch: Batch, rows: Sequence[int]) -> None:
        """Answers finished jobs and frees their rows."""
        if not rows:
            return
        with self._device():
            results = batch.engine.results(batch.lane, batch.state, rows)
            batch.state = batch.engine.free(batch.lane, batch.state, rows)
        for row, hypotheses in zip(rows, results, strict=True):
            job, batch.jobs[row] = batch.jobs[row], None
            if job is None:
                continue
            if any(math.isnan(hypothesis.score) for hypothesis in hypotheses):
                self._fail([job], DeviceFault("the model computed numbers that are none"))
            else:
                self._send(job, hypotheses[0].tokens)
                self._finish(job, hypotheses=hypotheses)

    def _shrink(self, batch: Batch) -> None:
        """Moves the live rows to a smaller state when nobody waits for the larger one's; gives up an empty one."""
        live = batch.live()
        if not live:
            if batch.jobs:
                batch.state, batch.jobs = None, []
                self._observer.stepped(batch.model, batch.lane, batch.worker, 0, 0, 0.0)
        elif not batch.waiting and (size := batch.fit(len(live))) < len(batch.jobs):
            self._resize(batch, live, size)

    def _resize(self, batch: Batch, live: list[int], size: int) -> None:
        with self._device():
            batch.state = batch.engine.resize(batch.lane, batch.state, live, size)
        batch.jobs = [batch.jobs[row] for row in live] + [None] * (size - len(live))

    def _score(self, batch: Batch) -> bool:
        """Runs one batch of classifications; False when none waits."""
        jobs = self._take(batch, batch.lane.rows)
        if not jobs:
            return False
        try:
            began = self._clock()
            with self._device(computes=True):
                logits = batch.engine.classify(batch.lane, [job.request for job in jobs])
            self._observer.encoded(batch.model, batch.lane, len(jobs), self._clock() - began)
        except DeviceFault as fault:
            self._fail(jobs, fault)
            raise
        for job, pair in zip(jobs, logits, strict=True):
            if all(map(math.isfinite, pair)):
                self._finish(job, logits=pair)
            else:
                self._fail([job], DeviceFault("the model computed numbers that are none"))
        return True

    def _lose(self, batch: Batch, fault: DeviceFault) -> None:
        """Fails a batch's running jobs; its state is gone."""
        jobs = [job for job in batch.jobs if job]
        batch.state, batch.jobs = None, []
        self._fail(jobs, fault)

    # ── bookkeeping ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _send(self, job: Job, tokens: Sequence[int]) -> None:
        if job.request.stream and len(tokens) > job.sent:
            with self._changed:  # another worker may find that its deadline has passed: nothing comes after the end
                if not job.over:
                    new, job.sent = tuple(tokens[job.sent :]), len(tokens)
                    job.deliver(Delta(new))

    def _finish(
        self, job: Job, hypotheses: tuple[Hypothesis, ...] = (), logits: tuple[float, float] | None = None
    ) -> None:
        queued, computed = job.started - job.arrived, self._clock() - job.started
        if self._end(job, Finish(hypotheses, logits, queued, computed), served=True):
            tokens = sum(len(hypothesis.tokens) for hypothesis in hypotheses)
            self._observer.finished(job.model, job.request.lane, tokens, queued, computed)

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        for job in jobs:
            if self._end(job, Failure(error)):
                self._observer.failed(job.model, job.request.lane, type(error).__name__)

    def _end(self, job: Job, event: Event | None = None, served: bool = False) -> bool:
        """Takes a job out of the house, once, and delivers its last event. False if it had ended before."""
        with self._changed:
            if job.over:
                return False
            job.over = True
            self._jobs.discard(job)
            self._admission.retire(job.request.cost, served)
            waiting = self._waiting[job.model, job.request.lane]
            if job in waiting:
                waiting.remove(job)
                heapq.heapify(waiting)
            self._report()
        if event:
            job.deliver(event)
        return True

    def _leave(self, count: int) -> None:
        with self._changed:
            self._admission.leave(count)
            self._report()

    def _report(self) -> None:
        waiting = sum(map(len, self._waiting.values()))
        self._observer.queued(self._admission.requests, self._admission.cost, waiting)

    def _check_alive(self) -> None:
        if self._death:
            raise Unavailable("the server is broken and about to end", ELSEWHERE)
        if self._stopped:
            raise Unavailable("the server is shutting down", ELSEWHERE)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except RequestError as error:
            self._observer.refused(type(error).__name__)
            raise

    @contextlib.contextmanager
    def _device(self, computes: bool = False) -> Iterator[None]:
        """Whatever an engine raises becomes a DeviceFault; the cause stays attached for the log."""
        try:
            yield
        except Exception as error:
            with self._changed:
                self._faults += 1
            self._observer.faulted(error)
            raise DeviceFault("the device failed") from error
        if computes:
            self._faults = 0
