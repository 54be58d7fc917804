"""Reads the messages of calls. Only so many are read at once, because a message that arrives slowly occupies memory.

A call waits unread until there is a place for reading it. Meanwhile flow control lets it send at most LOOKAHEAD bytes.
So memory is bounded by the places times the size of the largest message, plus LOOKAHEAD for every waiting call. A free
place goes to a call of the client of which the fewest messages are being read. While calls wait, reading a message may
take SLOW seconds: then the one that began first is refused.
"""

import asyncio
import itertools
from collections import Counter
from operator import attrgetter
from typing import Any

import grpc

from bart_server.scheduling.errors import DeadlineExceeded, InvalidArgument, Overloaded, RequestError
from bart_server.scheduling.jobs import Reservation

LOOKAHEAD = 1 << 16  # bytes of a message that gRPC buffers before it is read
SLOW = 1.0  # seconds that reading a message may take while other calls wait
RETRY_SLOW = 1.0  # seconds that a caller is told to wait if its message was too slow
END_OF_CALL = 0.05  # seconds in which gRPC cancels a call whose message it has refused


class NoMessage(InvalidArgument):
    """The call ended before its message did."""


class Reading:
    """A call whose message is not read yet. turn: done when it has a place. ended: the error that ends it early."""

    def __init__(self, client: str, order: int) -> None:
        loop = asyncio.get_running_loop()
        self.client = client
        self.order = order
        self.turn: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[RequestError] = loop.create_future()
        self.began = 0.0

    def end(self, error: RequestError) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


class Readers:
    """Gives places for reading to calls. It belongs to one event loop.

    places: how many messages are read at once. per_client: how many of one client. timeout: seconds from the beginning
    of a call to the end of its message.
    """

    def __init__(self, places: int, per_client: int, timeout: float) -> None:
        self._places = places
        self._per_client = per_client
        self._timeout = timeout
        self._orders = itertools.count()
        self._reading: set[Reading] = set()
        self._waiting: set[Reading] = set()
        self._active: Counter[str] = Counter()  # client -> number of its messages that are being read
        self._timer: asyncio.TimerHandle | None = None

    @property
    def unread(self) -> int:
        """The number of calls whose message has not been read to its end."""
        return len(self._reading) + len(self._waiting)

    async def read(self, context: grpc.aio.ServicerContext[Any, Any], reservation: Reservation) -> bytes:
        """The bytes of a call's message.

        Raises NoMessage if the call has none, DeadlineExceeded if it takes longer than the timeout, and the error with
        which the reservation is revoked. The task that reads is never cancelled, because grpc.aio would then lose a
        message that arrives later and never free its memory.
        """
        loop = asyncio.get_running_loop()
        reading = Reading(reservation.client, next(self._orders))

        def revoke(error: RequestError) -> None:
            loop.call_soon_threadsafe(reading.end, error)

        reservation.revoke = revoke
        deadline = loop.time() + self._timeout
        self._waiting.add(reading)
        self._share_out()
        try:
            if not reading.turn.done():
                self._watch()
                await self._wait(reading, reading.turn, deadline)
            message = asyncio.ensure_future(context.read())
            message.add_done_callback(retrieve)
            await self._wait(reading, message, deadline)
        finally:
            self._leave(reading)
        data = message.result()
        if data is grpc.aio.EOF:
            raise NoMessage("request", "the call brought no message")
        return bytes(data)

    async def _wait(self, reading: Reading, awaited: "asyncio.Future[Any]", deadline: float) -> None:
        """Waits until `awaited` is done. Raises the error that ends the reading before, or DeadlineExceeded."""
        left = deadline - asyncio.get_running_loop().time()
        await asyncio.wait((awaited, reading.ended), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if awaited.done():
            return
        if reading.ended.done():
            raise reading.ended.result()
        raise DeadlineExceeded(f"the message did not arrive within {self._timeout:g} s")

    def _share_out(self) -> None:
        """Gives free places to waiting calls."""
        while self._waiting and len(self._reading) < self._places:
            reading = min(self._waiting, key=lambda waiting: (self._active[waiting.client], waiting.order))
            if self._active[reading.client] >= self._per_client:
                break
            self._waiting.remove(reading)
            self._reading.add(reading)
            self._active[reading.client] += 1
            reading.began = asyncio.get_running_loop().time()
            reading.turn.set_result(None)

    def _leave(self, reading: Reading) -> None:
        self._waiting.discard(reading)
        if reading in self._reading:
            self._reading.remove(reading)
            self._active[reading.client] -= 1
            self._share_out()
        if not self._active[reading.client]:
            del self._active[reading.client]

    def _watch(self) -> None:
        """Starts a timer, while calls wait, that refuses the slowest message when it has taken SLOW seconds."""
        clients = {waiting.client for waiting in self._waiting}
        is_full = len(self._reading) == self._places
        in_the_way = [reading for reading in self._reading if is_full or reading.client in clients]
        if self._timer or not in_the_way:
            return
        loop = asyncio.get_running_loop()
        slowest = min(in_the_way, key=attrgetter("began"))

        def look() -> None:
            self._timer = None
            if not self._waiting:
                return
            if slowest in self._reading and loop.time() >= slowest.began + SLOW:
                slowest.end(Overloaded("the message came too slowly while other calls waited", RETRY_SLOW))
                loop.call_soon(self._watch)
            else:
                self._watch()

        self._timer = loop.call_at(max(slowest.began + SLOW, loop.time() + SLOW / 20), look)


def retrieve(message: "asyncio.Future[Any]") -> None:
    """Reads the exception of a finished task. If nobody did, Python would log a warning."""
    if not message.cancelled():
        message.exception()
