"""The bridge between an asyncio handler and the scheduler's threads."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bart_server.scheduling.contract import Delta, Event, Failure, Finish, Request
from bart_server.scheduling.errors import DeadlineExceeded
from bart_server.scheduling.scheduler import Job, Reservation, Scheduler


class Answer:
    """What comes back for one request. Tokens not fetched yet are kept together: at most one answer's worth."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tokens: tuple[int, ...] = ()
        self._last: Finish | Failure | None = None
        self._ready = asyncio.Event()

    def deliver(self, event: Event) -> None:
        """Called on a worker's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._put, event)

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

    def _put(self, event: Event) -> None:
        if isinstance(event, Delta):
            self._tokens += event.tokens
        else:
            self._last = event
        self._ready.set()


class Visit:
    """One call's stay: its places, its deadline and its jobs."""

    def __init__(self, scheduler: Scheduler, reservation: Reservation, deadline: float | None) -> None:
        self._scheduler = scheduler
        self._reservation = reservation
        self._deadline = deadline
        self._jobs: list[Job] = []

    def submit(self, model: str, request: Request) -> Answer:
        """Admits a request. Raises Overloaded or Unavailable."""
        answer = Answer()
        self._jobs.append(self._scheduler.submit(self._reservation, model, request, answer.deliver, self._deadline))
        return answer

    def leave(self) -> None:
        for job in self._jobs:
            self._scheduler.cancel(job)


@contextlib.asynccontextmanager
async def visit(scheduler: Scheduler, count: int, remaining: float | None) -> AsyncIterator[Visit]:
    """A stay for `count` requests, for at most `remaining` seconds. Whatever is unfinished at its end is cancelled.

    The deadline is kept here as well as by the scheduler, whose threads may be inside a long call of the device.
    """
    with scheduler.reserve(count) as reservation:
        stay = Visit(scheduler, reservation, None if remaining is None else scheduler.now() + remaining)
        try:
            async with asyncio.timeout(remaining):
                yield stay
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed") from None
        finally:
            stay.leave()
