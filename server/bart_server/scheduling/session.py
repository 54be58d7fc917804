"""Connects a call on an asyncio event loop with the scheduler's threads.

A session ends its requests at the call's deadline by a timer of its own. A timeout around the code that waits would not
always do: a generator may be suspended when the deadline passes, or be continued by another task.
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
    """The answer to one request, as it arrives. Tokens that were not fetched yet are joined into one Delta."""

    job: Job | None = None  # None until the request is submitted

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tokens: tuple[int, ...] = ()
        self._last: Finish | Failure | None = None
        self._ready = asyncio.Event()

    def deliver(self, event: Event) -> None:
        """Hands an event to the event loop. May be called on any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits for the answer
            self._loop.call_soon_threadsafe(self.put, event)

    def put(self, event: Event) -> None:
        """Takes an event, on the event loop. Events after the last one (a Finish or a Failure) are dropped."""
        if self._last is not None:
            return
        if isinstance(event, Delta):
            self._tokens += event.tokens
        else:
            self._last = event
        self._ready.set()

    async def next(self) -> Delta | Finish:
        """Waits for tokens and returns all since the last call, or the Finish. Raises the error of a Failure."""
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
        """Waits for the Finish; the deltas before it are dropped. Raises the error of a Failure."""
        while True:
            event = await self.next()
            if isinstance(event, Finish):
                return event


class Session:
    """One call's places, deadline and requests. It belongs to the event loop that runs when it is made.

    remaining: seconds until the deadline, None without one. The session's timer ends late requests at the deadline. The
    scheduler ends them too, but only between calls of the device, which may take long.
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
        """Admits all of the requests or none. Raises Overloaded or Unavailable, or the error that ended the session.

        places: how many of the session's places are for these requests. If there are more requests, more places are
        taken. If the requests are refused, all of these places are given back.
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
        """Waits for the Finish of every answer. If a request fails, cancels the others and raises its error at once."""
        if len(answers) == 1:
            return [await answers[0].finish()]
        try:
            return await asyncio.gather(*(answer.finish() for answer in answers))
        except RequestError:
            self._cancel(answers)
            raise

    def release(self, count: int) -> None:
        """Gives back the places of `count` requests that will not be submitted."""
        self._reservation.release(count)

    def _cancel(self, answers: Sequence[Answer]) -> None:
        """Cancels the requests of these answers."""
        for answer in answers:
            if answer.job:
                self._scheduler.cancel(answer.job)

    async def in_thread(self, pool: Executor, work: Callable[[], Result]) -> Result:
        """The result of `work` on a thread of the pool. If the session ends first, raises the error that ended it."""
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
        """Ends the session: cancels its unfinished requests, whose answers raise `error`, and gives its places back."""
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
        """Ends the session because its places went to another client. Called on any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits for the answer
            self._loop.call_soon_threadsafe(self.end, error)


@contextlib.contextmanager
def open_session(
    scheduler: Scheduler, engine: Engine, count: int, remaining: float | None, reservation: Reservation
) -> Iterator[Session]:
    """A session with places for `count` requests to an engine; at the end of the block, unfinished ones are cancelled.

    remaining: seconds until the call's deadline, None without one. reservation: the places that the call already holds;
    if they are fewer than `count`, more are taken. Raises Overloaded or Unavailable if there are none.
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
