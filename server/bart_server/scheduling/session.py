"""The bridge between one call on an asyncio loop and the scheduler's threads.

A session ends its requests at the call's deadline by a timer, and not by a timeout around the code that waits: the code
may be a generator that is suspended while its caller writes to the network, or that goes on in another task.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from bart_server.scheduling.contract import Delta, Engine, Event, Failure, Finish, Request
from bart_server.scheduling.errors import Cancelled, DeadlineExceeded, RequestError
from bart_server.scheduling.jobs import Job, Reservation
from bart_server.scheduling.scheduler import Scheduler

Result = TypeVar("Result")


class Answer:
    """What comes back for one request. Tokens not fetched yet are kept together: at most one answer's worth."""

    job: Job | None = None  # once it is submitted

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tokens: tuple[int, ...] = ()
        self._last: Finish | Failure | None = None
        self._ready = asyncio.Event()

    def deliver(self, event: Event) -> None:
        """Called on a worker's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits for the answer
            self._loop.call_soon_threadsafe(self.put, event)

    def put(self, event: Event) -> None:
        """On the event loop. What comes after the end is dropped."""
        if self._last is not None:
            return
        if isinstance(event, Delta):
            self._tokens += event.tokens
        else:
            self._last = event
        self._ready.set()

    async def next(self) -> Delta | Finish:
        """The tokens since the last call, or the end. Raises the error of a Failure."""
        await self._ready.wait()
        if self._tokens:
            delta, self._tokens = Delta(self._tokens), ()
            if self._last is None:
                self._ready.clear()
            return delta
        if isinstance(self._last, Failure):
            raise self._last.error
        assert self._last is not None
        return self._last

    async def finish(self) -> Finish:
        """The end; the deltas before it are dropped."""
        while not isinstance(event := await self.next(), Finish):
            pass
        return event


class Session:
    """One call's places, deadline and requests. Of one event loop.

    remaining: seconds until the deadline, None without one. It is kept here as well as by the scheduler, whose threads
    may be inside a long call of the device.
    """

    def __init__(self, scheduler: Scheduler, reservation: Reservation, remaining: float | None) -> None:
        self._scheduler = scheduler
        self._reservation = reservation
        self._loop = asyncio.get_running_loop()
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if remaining is not None:
            self._deadline = scheduler.now() + remaining
            self._timer = self._loop.call_later(remaining, self.end, DeadlineExceeded("the deadline passed"))
        self._error: RequestError | None = None
        self._ended: asyncio.Future[None] | None = None  # made when somebody waits for a thread
        self._answers: list[Answer] = []
        reservation.revoke = self._revoke

    def submit(self, requests: Sequence[Request], places: int = 1) -> list[Answer]:
        """Admits all of the requests or none. Raises Overloaded or Unavailable, or what the session ended with.

        places: how many of the session's places are for them; they take those that they lack, and give them all back if
        they are refused.
        """
        if self._error:
            raise self._error
        answers: list[Answer] = []
        try:
            if len(requests) > places:
                self._scheduler.extend(self._reservation, len(requests) - places)
                places = len(requests)
            for request in requests:
                answer = Answer()
                answer.job = self._scheduler.submit(self._reservation, request, answer.deliver, self._deadline)
                answers.append(answer)
        except RequestError:
            self._reservation.release(places - len(answers))
            self._cancel(answers)
            raise
        self._answers += answers
        return answers

    async def finish(self, answers: Sequence[Answer]) -> list[Finish]:
        """All ends. As soon as one request fails, the others are cancelled, and its error is raised."""
        if len(answers) == 1:
            return [await answers[0].finish()]
        try:
            return await asyncio.gather(*(answer.finish() for answer in answers))
        except RequestError:
            self._cancel(answers)
            raise

    def release(self, count: int) -> None:
        """Gives back places of requests that are not submitted after all."""
        self._reservation.release(count)

    def _cancel(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            if answer.job:
                self._scheduler.cancel(answer.job)

    async def in_thread(self, pool: Executor, work: Callable[[], Result]) -> Result:
        """What `work` returns on a thread of the pool. Raises what the session ends with, if that comes first."""
        future = self._loop.run_in_executor(pool, work)
        self._ended = self._ended or self._loop.create_future()
        try:
            await asyncio.wait((future, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if self._error:
                raise self._error
            return future.result()
        finally:
            future.cancel()

    def end(self, error: RequestError) -> None:
        """Every answer that is not complete ends with this error, its request leaves the scheduler, places are free."""
        if self._error:
            return
        self._error = error
        self._reservation.release()
        if self._timer:
            self._timer.cancel()
        if self._ended and not self._ended.done():
            self._ended.set_result(None)
        self._cancel(self._answers)
        for answer in self._answers:
            answer.put(Failure(error))

    def _revoke(self, error: RequestError) -> None:
        """On any thread: the call has to give way to another client's."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits for the answer
            self._loop.call_soon_threadsafe(self.end, error)


@contextlib.contextmanager
def open_session(
    scheduler: Scheduler, engine: Engine, count: int, remaining: float | None, reservation: Reservation
) -> Iterator[Session]:
    """Places for `count` requests to an engine, for at most `remaining` seconds. What is unfinished then is cancelled.

    reservation: the call's, which may have fewer places. Raises Overloaded or Unavailable when there are no places.
    """
    with reservation:
        scheduler.bind(reservation, engine)
        if count > reservation.count:
            scheduler.extend(reservation, count - reservation.count)
        session = Session(scheduler, reservation, remaining)
        try:
            yield session
        finally:
            session.end(Cancelled("the call has ended"))
