"""Decides which requests run when, by continuous batching. Pure Python: imports neither jax nor grpc.

Workers, each a thread, call `iterate` again and again. While one waits for the device, another prepares work for it or
delivers results, so that the device always has work. A worker has a batch of its own in every shape bucket, and all
workers take requests from the same queues. An iteration of a worker

    1. drops requests that were cancelled or are past their deadline, waiting or running,
    2. fills free rows of every bucket with waiting requests, encoded together: those of the client with the fewest
       rows first, and of one client the earliest deadline first; the batch grows to the next open row count where
       needed,
    3. decodes one chunk of steps in every bucket that has live rows: tokens are delivered, finished rows leave, and the
       batch shrinks to a smaller open row count when that is enough,
    4. runs the waiting requests of the kind ONCE, one batch in each bucket.

So a request waits for at most one chunk when rows are free, and a cancelled one holds its rows for at most one chunk.
Requests without a deadline are due `DEFAULT_DEADLINE` seconds after their arrival, so that later deadlines do not pass
them for ever. Clients get equal shares, see `fairness`. A request that cannot end before its deadline is refused when
it comes, or when its turn comes while others wait.

Engines are added and removed while workers run, and two revisions of one model may be served side by side. A request
waits in the queue of the best bucket that is open. When buckets open or close, waiting requests are queued again, and
running ones end in their bucket.

A method of an engine that raises fails the requests it was called for, and nothing else. After
`MAX_SUCCESSIVE_FAULTS` such calls in succession, or an error of the scheduler itself, the workers end, every request
fails, and `on_death` is called.
"""

import contextlib
import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bart_server.scheduling.admission import Admission, Budget
from bart_server.scheduling.contract import (
    Bucket,
    Deliver,
    Delta,
    Engine,
    Event,
    Failure,
    Finish,
    Hypothesis,
    Kind,
    Request,
    best,
)
from bart_server.scheduling.errors import (
    Cancelled,
    DeadlineExceeded,
    DeviceFault,
    InvalidArgument,
    Overloaded,
    RequestError,
    Unavailable,
)
from bart_server.scheduling.fairness import displaced, next_to_run, work_ahead
from bart_server.scheduling.jobs import Batch, Job, Reservation, Revision, fit, make_batches, without_idle
from bart_server.scheduling.observer import Observer

DEFAULT_DEADLINE = 60.0  # seconds after its arrival at which a request without a deadline is due
MAX_SUCCESSIVE_FAULTS = 3  # the workers end when so many calls of an engine in succession have raised
# The weight of the latest answer in the moving average of the time that answers take (`_paces`).
PACE_WEIGHT = 0.2
RETRY_ELSEWHERE = 1.0  # seconds after which a caller may find another server, revision or compiled program
BROKEN = "the server is broken and about to end"  # the message of Unavailable after the workers ended by an error


def subtract(counter: Counter[str], key: str, count: int) -> None:
    """Subtracts from a count, and deletes it at 0, so that the counter does not grow with every new client."""
    counter[key] -= count
    if not counter[key]:
        del counter[key]


class CountingRefusals:
    """Reports every RequestError that a `with` block raises to the observer. It may be entered by several threads."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, RequestError):
            self._observer.refused(type(error).__name__)


class Scheduler:
    """Decides which requests run when. `iterate` and `run` are for a worker's thread, the other methods for any.

    budget: the most that may be in flight. chunk: decoder steps of one iteration. clock: seconds, monotonic.
    on_death: called once, with the error, when the workers end by an error. workers: how many threads will call `run`.
    """

    def __init__(
        self,
        budget: Budget,
        chunk: int = 8,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_death: Callable[[BaseException], None] = lambda error: None,
        workers: int = 1,
    ) -> None:
        # The next three are replaced and never mutated, so that a worker can iterate over its batches without the lock.
        self._revisions: dict[Engine, Revision] = {}
        self._queues: tuple[list[Job], ...] = ()
        self._batches: tuple[tuple[Batch, ...], ...] = ((),) * workers  # the batches of each worker
        self._chunk = chunk
        self._observer = observer or Observer()
        self._counting_refusals = CountingRefusals(self._observer)
        self._clock = clock
        self._on_death = on_death
        self._admission = Admission(budget)
        # The lock of the fields below; notified when there is work, or at the end.
        self._changed = threading.Condition()
        self._orders = itertools.count()
        self._jobs: set[Job] = set()  # those that wait or run
        self._reservations: set[Reservation] = set()  # those that hold places
        self._places: Counter[str] = Counter()  # how many places each client holds
        self._rows: Counter[str] = Counter()  # in how many rows each client's requests run
        self._paces: dict[Bucket, float] = {}  # seconds from the encoder to the answer for each unit of cost
        self._calls: dict[object, float] = {}  # when each unfinished call of an engine began
        self._draining = False
        self._stopped = False
        self._death: BaseException | None = None
        self._faults = 0  # engine calls that raised since the last `step` or `run` that returned

    # ── from any thread ───────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, model: str, engine: Engine) -> None:
        """Begins to serve an engine; another engine of the same model is still served.

        Raises ValueError if the budget is smaller than the cost of one request.
        """
        for bucket in engine.buckets:
            if bucket.cost > self._admission.budget.cost:
                limit = self._admission.budget.cost
                raise ValueError(f"bucket {bucket.name} needs a budget of {bucket.cost}, it is {limit}")
        revision = Revision(model, engine, engine.open, {bucket: [] for bucket in engine.buckets})
        with self._changed:
            self._set_revisions({**self._revisions, engine: revision})
            added = [make_batches(revision, worker) for worker in range(len(self._batches))]
            self._batches = tuple((*old, *new) for old, new in zip(self._batches, added, strict=True))

    def remove(self, engine: Engine) -> None:
        """Refuses new calls of an engine.

        Calls that have places are served to their end, then the engine is forgotten.
        """
        with self._changed:
            revision = self._revisions[engine]
            revision.removed = True
            self._forget_if_idle(revision)

    def serves(self, engine: Engine) -> bool:
        """Whether the engine is still served: from `add` until all calls in flight at `remove` have ended."""
        return engine in self._revisions

    def hold(self, client: str = "", count: int = 1) -> Reservation:
        """Takes places for a call before its message is read. Raises Overloaded or Unavailable."""
        reservation = Reservation(client, self._clock(), next(self._orders), self._release_places)
        with self._changed, self._counting_refusals:
            self._check_alive()
            if self._draining:
                raise Unavailable("the server is shutting down", RETRY_ELSEWHERE)
            self._take_places(reservation, count)
        return reservation

    def bind(self, reservation: Reservation, engine: Engine) -> None:
        """Sets the engine that a call's places are for. Raises Overloaded or Unavailable."""
        with self._changed, self._counting_refusals:
            self._check_alive()
            if reservation.revoked:
                raise reservation.revoked
            revision = self._revisions.get(engine)
            if revision is None or revision.removed:
                raise Unavailable("this revision of the model is not served any more", RETRY_ELSEWHERE)
            reservation.revision = revision
            revision.places += reservation.count

    def extend(self, reservation: Reservation, count: int) -> None:
        """Takes more places for a call, while draining too. Raises Overloaded or Unavailable."""
        with self._changed, self._counting_refusals:
            self._check_alive()
            self._take_places(reservation, count)

    def reserve(self, engine: Engine, count: int = 1, client: str = "") -> Reservation:
        """Takes places for requests that are about to be tokenized. Raises Overloaded or Unavailable."""
        reservation = self.hold(client, count)
        try:
            self.bind(reservation, engine)
        except RequestError:
            reservation.release()
            raise
        return reservation

    def submit(
        self, reservation: Reservation, request: Request, deliver: Deliver, deadline: float | None = None
    ) -> Job:
        """Admits a request that has its place, while draining too. Raises Overloaded or Unavailable.

        deliver: called with Deltas (if the request streams) and then one Finish or Failure, unless the job is
        cancelled. It is called on any thread, sometimes under the scheduler's lock, so it must return at once.
        deadline: a time of the scheduler's clock.
        """
        now = self._clock()
        due = reservation.arrived + DEFAULT_DEADLINE if deadline is None else deadline
        revision = reservation.revision
        assert revision is not None
        with self._changed, self._counting_refusals:
            self._check_alive()
            if reservation.revoked:
                raise reservation.revoked
            self._refresh(revision)
            bucket = best(request.buckets, revision.open)
            if bucket is None:
                raise Unavailable("no program that can hold this request is compiled yet", RETRY_ELSEWHERE)
            ahead = self._ahead(reservation.client, due, request, bucket, now)
            self._make_room(reservation.client, request.cost)
            remaining = None if deadline is None else deadline - now
            self._admission.admit(request.cost, ahead, remaining, self._latency(bucket, request))
            order = next(self._orders)
            job = Job(reservation, revision, request, bucket, deliver, reservation.arrived, deadline, due, order)
            self._jobs.add(job)
            reservation.jobs += 1
            revision.jobs += 1
            revision.queues[bucket].append(job)
            self._report()
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Ends a job without an answer; its row is freed before the next chunk. Does nothing if the job has ended."""
        with self._changed:
            if not job.ended:
                self._end(job)
                self._observer.failed(job.revision.model, job.bucket, Cancelled.__name__)

    def drain(self) -> None:
        """Refuses new calls from now on; calls in flight go on."""
        with self._changed:
            self._draining = True

    def stop(self) -> None:
        """Ends `run` after the iterations in progress; requests still in flight fail."""
        with self._changed:
            self._draining = self._stopped = True
            self._changed.notify_all()

    def idle(self) -> bool:
        """Whether nothing is in flight."""
        with self._changed:
            return self._admission.requests == 0 and not self._jobs

    def longest_call(self) -> float:
        """Seconds that the longest unfinished call of an engine has taken so far; 0 if there is none."""
        return max((self._clock() - began for began in list(self._calls.values())), default=0.0)

    def abandon(self, error: Exception) -> None:
        """Ends the scheduler without waiting for its workers: every request fails, and `on_death` is called."""
        self._die(error)
        with self._changed:
            unfinished = list(self._jobs)
        self._fail(unfinished, Unavailable(BROKEN, RETRY_ELSEWHERE))

    def now(self) -> float:
        """The time of the scheduler's clock in seconds."""
        return self._clock()

    # ── on a worker's thread ──────────────────────────────────────────────────────────────────────────────────────────

    def run(self, worker: int = 0) -> None:
        """Iterates until `stop`, or until a worker dies."""
        try:
            while self._wait(worker):
                self.iterate(worker)
        except BaseException as error:
            self._die(error)
        finally:
            why = BROKEN if self._death else "the server is shutting down"
            with self._changed:
                unfinished = list(self._jobs)
            self._fail(unfinished, Unavailable(why, RETRY_ELSEWHERE))

    def _die(self, error: BaseException) -> None:
        """Makes all workers end because of an error; calls `on_death` the first time."""
        with self._changed:
            first = self._death is None
            self._death = self._death or error
            self._changed.notify_all()
        if first:
            self._on_death(error)

    def iterate(self, worker: int = 0) -> bool:
        """One iteration; False when there was nothing to do."""
        with self._changed:
            self._admission.throughput.began(self._clock())
            for revision in self._revisions.values():
                self._refresh(revision)
        self._expire()
        worked = False
        for batch in self._batches[worker]:
            if batch.jobs or batch.waiting:
                worked |= self._advance(batch)
        with self._changed:
            self._admission.throughput.ended(self._clock(), worked)
        if self._faults >= MAX_SUCCESSIVE_FAULTS:
            raise RuntimeError(f"{MAX_SUCCESSIVE_FAULTS} device calls in succession failed")
        return worked

    def _wait(self, worker: int) -> bool:
        """Waits until this worker has work. Returns False when the worker is to end."""
        with self._changed:
            while not (self._stopped or self._death):
                if any(batch.waiting or batch.jobs for batch in self._batches[worker]):
                    return True
                self._changed.wait()
            return False

    def _refresh(self, revision: Revision) -> None:
        """Queues waiting jobs again if the engine's buckets have opened or closed. Called under the lock."""
        if revision.open is revision.engine.open:
            return
        revision.open = revision.engine.open
        waiting: list[Job] = []
        for queue in revision.queues.values():
            waiting += queue
        for job in waiting:
            bucket = best(job.request.buckets, revision.open)
            if bucket is None:
                self._fail([job], Unavailable("no program that can hold this request is left", RETRY_ELSEWHERE))
            elif bucket is not job.bucket:
                revision.queues[job.bucket].remove(job)
                revision.queues[bucket].append(job)
                job.bucket = bucket

    def _expire(self) -> None:
        """Ends the jobs whose deadline has passed."""
        now = self._clock()
        with self._changed:
            late = [job for job in self._jobs if job.deadline is not None and job.deadline <= now]
        self._fail(late, DeadlineExceeded("the deadline passed"))

    def _advance(self, batch: Batch) -> bool:
        """One batch's part of an iteration; False when there was nothing to do."""
        try:
            return self._run(batch) if batch.bucket.kind is Kind.ONCE else self._decode(batch)
        except DeviceFault as fault:
            self._fail_running(batch, fault)
            return True

    def _run(self, batch: Batch) -> bool:
        """Runs one batch of requests of the kind ONCE; False when none waits."""
        sizes = batch.sizes()
        jobs = self._pop_waiting(batch, sizes[-1]) if sizes else []
        if not jobs:
            return False
        try:
            began = self._clock()
            with self._engine_call(len(jobs), computes=True):
                size = fit(len(jobs), sizes)
                answers = batch.work.run(batch.bucket, size, [job.request for job in jobs])
            self._observer.encoded(batch.revision.model, batch.bucket, len(jobs), self._clock() - began)
            self._count_oversized(batch, size, len(jobs), jobs)
        except DeviceFault as fault:
            self._fail(jobs, fault)
            raise
        for job, values in zip(jobs, answers, strict=True):
            if all(map(math.isfinite, values)):
                self._finish(job, values=values)
            else:
                self._fail([job], DeviceFault("the model computed NaN"))
        return True

    def _count_oversized(self, batch: Batch, size: int, rows: int, jobs: Sequence[Job]) -> None:
        """Counts the jobs that begin on a larger program than the best one. rows: the rows in use, theirs included."""
        requests = batch.work.oversized(batch.bucket, size, rows, [job.request for job in jobs])
        if requests:
            self._observer.oversized(batch.revision.model, requests)

    def _decode(self, batch: Batch) -> bool:
        """Fills free rows of one bucket, decodes a chunk and delivers what is finished; False when no row is live."""
        self._free_ended(batch)
        self._fill(batch)
        live = batch.live()
        if live:
            began = self._clock()
            with self._engine_call(len(live), computes=True):
                batch.state, finished = batch.work.step(batch.bucket, batch.state, self._chunk)
            seconds = self._clock() - began
            self._observer.stepped(
                batch.revision.model, batch.bucket, batch.worker, len(live), len(batch.jobs), seconds
            )
            self._send_final_tokens(batch, [row for row in live if row not in finished])
            self._answer_finished(batch, finished)
        self._shrink(batch)
        return bool(live)

    def _free_ended(self, batch: Batch) -> None:
        """Frees the rows of jobs that were cancelled or expired."""
        rows = [row for row, job in enumerate(batch.jobs) if job and job.ended]
        if rows:
            with self._engine_call():
                batch.state = batch.work.free(batch.bucket, batch.state, rows)
            for row in rows:
                batch.jobs[row] = None

    def _fill(self, batch: Batch) -> None:
        """Encodes waiting requests and inserts them into free rows, unless the running batch's row count was closed."""
        sizes, live = batch.sizes(), len(batch.live())
        if not batch.waiting or not sizes or (live and len(batch.jobs) not in sizes):
            return
        jobs = self._pop_waiting(batch, sizes[-1] - live)
        if not jobs:
            return
        fitting = fit(live + len(jobs), sizes)
        size = max(fitting, len(batch.jobs)) if live else fitting
        began = self._clock()
        try:
            with self._engine_call(len(jobs)):
                encoded = batch.work.encode(batch.bucket, size, [job.request for job in jobs])
        except DeviceFault as fault:  # the encoder does not use the running rows, so they go on
            self._fail(jobs, fault)
            return
        self._observer.encoded(batch.revision.model, batch.bucket, len(jobs), self._clock() - began)
        self._count_oversized(batch, fitting, live + len(jobs), jobs)
        try:
            self._insert(batch, size, encoded, jobs)
        except DeviceFault as fault:
            self._fail(jobs, fault)
            raise
        self._free_ended(batch)  # some jobs may have been cancelled while the encoder ran

    def _insert(self, batch: Batch, size: int, encoded: Any, jobs: Sequence[Job]) -> None:
        """Puts encoded jobs into the running batch, which grows to `size` if it has to, or into a new one."""
        live = batch.live()
        if not live:
            with self._engine_call(len(jobs)):
                batch.state = batch.work.init(batch.bucket, size)
            batch.jobs = [None] * size
        elif size > len(batch.jobs):
            self._resize(batch, live, size)
        free = [row for row, job in enumerate(batch.jobs) if job is None]
        rows = free[: len(jobs)]
        with self._engine_call(len(jobs)):
            batch.state = batch.work.insert(batch.bucket, batch.state, encoded, rows)
        for row, job in zip(rows, jobs, strict=True):
            batch.jobs[row] = job

    def _pop_waiting(self, batch: Batch, count: int) -> list[Job]:
        """Up to `count` waiting jobs that run next."""
        jobs: list[Job] = []
        now = self._clock()
        with self._changed:
            while batch.waiting and len(jobs) < count:
                job = next_to_run(batch.waiting, self._rows)
                if len(batch.waiting) > 1 and self._is_too_late(job, now):
                    self._fail([job], Overloaded("the request cannot end before its deadline", self._retry_after(job)))
                    continue
                batch.waiting.remove(job)
                job.running = True
                job.started = now
                self._rows[job.client] += 1
                jobs.append(job)
            self._report()
        return jobs

    def _is_too_late(self, job: Job, now: float) -> bool:
        """Whether a waiting job that begins now would end after its deadline."""
        latency = self._latency(job.bucket, job.request)
        return job.deadline is not None and latency is not None and now + latency > job.deadline

    def _send_final_tokens(self, batch: Batch, rows: Sequence[int]) -> None:
        """Delivers to streams the tokens that no later step can change."""
        streamed_rows: list[int] = []
        jobs: list[Job] = []
        for row in rows:
            job = batch.jobs[row]
            if job and job.request.stream:
                streamed_rows.append(row)
                jobs.append(job)
        if not jobs:
            return
        with self._engine_call(len(jobs)):
            prefixes = batch.work.prefix(batch.bucket, batch.state, streamed_rows)
        for job, tokens in zip(jobs, prefixes, strict=True):
            self._send_delta(job, tokens)

    def _answer_finished(self, batch: Batch, rows: Sequence[int]) -> None:
        """Answers finished jobs and frees their rows."""
        if not rows:
            return
        with self._engine_call(len(rows)):
            results = batch.work.results(batch.bucket, batch.state, rows)
            batch.state = batch.work.free(batch.bucket, batch.state, rows)
        for row, hypotheses in zip(rows, results, strict=True):
            job = batch.jobs[row]
            batch.jobs[row] = None
            if job is None:
                continue
            if any(math.isnan(hypothesis.score) for hypothesis in hypotheses):
                self._fail([job], DeviceFault("the model computed NaN"))
            else:
                self._send_delta(job, hypotheses[0].tokens)
                self._finish(job, hypotheses=hypotheses)

    def _shrink(self, batch: Batch) -> None:
        """Moves the live rows to a smaller state if no request waits for a row; discards a state without live rows."""
        live = batch.live()
        if not live:
            self._discard_state(batch)
            return
        sizes = batch.sizes()
        if not batch.waiting and len(batch.jobs) in sizes:
            size = fit(len(live), sizes)
            if size < len(batch.jobs):
                self._resize(batch, live, size)

    def _resize(self, batch: Batch, live: list[int], size: int) -> None:
        """Moves the live rows to a state of `size` rows."""
        with self._engine_call(len(live)):
            batch.state = batch.work.resize(batch.bucket, batch.state, live, size)
        batch.jobs = [batch.jobs[row] for row in live] + [None] * (size - len(live))

    def _fail_running(self, batch: Batch, fault: DeviceFault) -> None:
        """Fails a batch's running jobs and discards its state, which is unusable after an engine's call has raised."""
        jobs = [job for job in batch.jobs if job]
        self._discard_state(batch)
        self._fail(jobs, fault)

    def _discard_state(self, batch: Batch) -> None:
        """Discards a batch's state, if it has one."""
        if batch.jobs:
            batch.state, batch.jobs = None, []
            self._observer.stepped(batch.revision.model, batch.bucket, batch.worker, 0, 0, 0.0)
            if batch.revision.removed:
                with self._changed:
                    self._forget_if_idle(batch.revision)

    # ── bookkeeping ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _send_delta(self, job: Job, tokens: Sequence[int]) -> None:
        """Delivers those of a stream's tokens that it does not have yet. tokens: all that are final."""
        if job.request.stream and len(tokens) > job.sent:
            with self._changed:  # another worker may end the job, and nothing may be delivered after its end
                if not job.ended:
                    new, job.sent = tuple(tokens[job.sent :]), len(tokens)
                    job.deliver(Delta(new))

    def _finish(self, job: Job, hypotheses: tuple[Hypothesis, ...] = (), values: tuple[float, ...] = ()) -> None:
        """Answers a job, and measures how long it took."""
        queued = job.started - job.arrived
        computed = self._clock() - job.started
        pace = computed / job.cost
        with self._changed:
            average = self._paces.get(job.bucket, pace)
            bounded = min(pace, 2 * average)  # so that one slow call of the device does not refuse many requests
            self._paces[job.bucket] = average + PACE_WEIGHT * (bounded - average)
        if self._end(job, Finish(hypotheses, values, queued, computed), served=True):
            tokens = sum(len(hypothesis.tokens) for hypothesis in hypotheses)
            self._observer.finished(job.revision.model, job.bucket, tokens, queued, computed)

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        """Ends those of the jobs that have not ended, with an error."""
        for job in jobs:
            if self._end(job, Failure(error)):
                self._observer.failed(job.revision.model, job.bucket, type(error).__name__)

    def _end(self, job: Job, event: Event | None = None, served: bool = False) -> bool:
        """Ends a job and delivers `event`, its last. Does nothing and returns False if it has ended already."""
        with self._changed:
            if job.ended:
                return False
            job.ended = True
            self._jobs.discard(job)
            self._admission.retire(job.request.cost, served)
            if job.running:
                subtract(self._rows, job.client, 1)
            else:
                job.revision.queues[job.bucket].remove(job)
            job.reservation.jobs -= 1
            job.revision.jobs -= 1
            self._release_places(job.reservation, 1)
            self._forget_if_idle(job.revision)
            self._report()
        if event:
            job.deliver(event)
        return True

    def _take_places(self, reservation: Reservation, count: int) -> None:
        """Gives a call places, for which other clients may lose some. Called under the lock."""
        if reservation.revoked:
            raise reservation.revoked
        limit = self._admission.budget.requests
        total = count + min(1, reservation.count)  # with the place that a call holds when it asks for more
        if total > limit:
            raise InvalidArgument("request", f"brings {total} requests at once, the server takes at most {limit}")
        missing = self._admission.requests + count - limit
        share = self._places[reservation.client] + count
        if missing > 0 and max(self._places.values()) > share:  # cheap, and mostly false when calls are refused
            waiting: list[Job | Reservation] = [job for job in self._jobs if not job.running]
            waiting += [other for other in self._reservations if not other.jobs]
            weights = [other.count if isinstance(other, Reservation) else 1 for other in waiting]
            for other in displaced(missing, share, reservation.client, self._places, waiting, weights):
                self._give_way(other)
        self._admission.reserve(count)
        reservation.count += count
        self._reservations.add(reservation)
        self._places[reservation.client] += count
        if reservation.revision:
            reservation.revision.places += count
        self._report()

    def _release_places(self, reservation: Reservation, count: int) -> None:
        """Takes up to `count` of a call's places back."""
        with self._changed:
            count = min(count, reservation.count)
            if not count:
                return
            self._admission.release(count)
            reservation.count -= count
            subtract(self._places, reservation.client, count)
            if not reservation.count:
                self._reservations.discard(reservation)
            if reservation.revision:
                reservation.revision.places -= count
                self._forget_if_idle(reservation.revision)
            self._report()

    def _make_room(self, client: str, cost: int) -> None:
        """Refuses waiting requests of clients that hold more cost, until `cost` fits. Called under the lock."""
        missing = self._admission.cost + cost - self._admission.budget.cost
        if missing <= 0:
            return
        held: Counter[str] = Counter()
        for job in self._jobs:
            held[job.client] += job.cost
        waiting = [job for job in self._jobs if not job.running]
        weights = [job.cost for job in waiting]
        for job in displaced(missing, held[client] + cost, client, held, waiting, weights):
            self._give_way(job)

    def _ahead(self, client: str, due: float, request: Request, bucket: Bucket, now: float) -> float:
        """The cost that is served before a request: 0 if its bucket has a free row for which no request waits."""
        jobs = list(self._jobs)
        running = sum(job.running for job in jobs if job.bucket is bucket)
        waiting = sum(job.bucket is bucket for job in jobs) - running
        if not waiting and running < bucket.sizes[-1] * len(self._batches):
            return 0.0
        return work_ahead(client, due, request.cost, jobs, [self._cost_left(job, now) for job in jobs])

    def _cost_left(self, job: Job, now: float) -> float:
        """The part of a job's cost that is not computed yet, estimated from the seconds that such jobs take."""
        latency = self._latency(job.bucket, job.request)
        if not job.running or not latency:
            return job.cost
        return job.cost * max(0.0, 1 - (now - job.started) / latency)

    def _give_way(self, other: Job | Reservation) -> None:
        """Refuses a waiting job or call, so that a client with a smaller share gets its place.

        Called under the lock.
        """
        error = Overloaded("the server is full, and other clients have a smaller share of it", self._retry_after(other))
        self._observer.refused(type(error).__name__)
        if isinstance(other, Job):
            self._fail([other], error)
            return
        other.revoked = error
        self._release_places(other, other.count)
        other.revoke(error)

    def _retry_after(self, waiting: Job | Reservation) -> float:
        """Seconds after which it makes sense to send a refused job or call again."""
        return self._admission.retry_after(waiting.cost)

    def _latency(self, bucket: Bucket, request: Request) -> float | None:
        """Seconds from the encoder to the answer, by the bucket's average; None before its first answer."""
        pace = self._paces.get(bucket)
        return None if pace is None else pace * request.cost

    def _forget_if_idle(self, revision: Revision) -> None:
        """Forgets an engine that was removed, if nothing of it is in flight. Called under the lock."""
        if not revision.removed or revision.places or revision.jobs:
            return
        self._batches = tuple(without_idle(batches, revision) for batches in self._batches)
        remaining = itertools.chain.from_iterable(self._batches)
        if all(batch.revision is not revision for batch in remaining):
            revisions = dict(self._revisions)
            revisions.pop(revision.engine, None)
            for bucket in revision.queues:
                self._paces.pop(bucket, None)
            self._set_revisions(revisions)

    def _set_revisions(self, revisions: dict[Engine, Revision]) -> None:
        """Replaces the served engines, and the list of all their queues. Called under the lock."""
        self._revisions = revisions
        queues: list[list[Job]] = []
        for revision in revisions.values():
            queues += revision.queues.values()
        self._queues = tuple(queues)

    def _report(self) -> None:
        """Tells the observer how much is in flight. Called under the lock."""
        self._observer.queued(self._admission.requests, self._admission.cost, sum(map(len, self._queues)))

    def _check_alive(self) -> None:
        """Raises Unavailable if the workers have ended."""
        if self._death:
            raise Unavailable(BROKEN, RETRY_ELSEWHERE)
        if self._stopped:
            raise Unavailable("the server is shutting down", RETRY_ELSEWHERE)

    @contextlib.contextmanager
    def _engine_call(self, requests: int = 0, computes: bool = False) -> Iterator[None]:
        """Turns what an engine raises inside the block into a DeviceFault, with its cause.

        requests: how many requests wait for the call. computes: whether success shows that the device works, so that
        faults are counted from 0 again.
        """
        self._observer.calling(requests)
        call = object()
        self._calls[call] = self._clock()
        try:
            yield
        except Exception as error:
            with self._changed:
                self._faults += 1
            self._observer.faulted(error)
            raise DeviceFault("the device failed") from error
        finally:
            del self._calls[call]
            self._observer.calling(0)
        if computes:
            self._faults = 0
