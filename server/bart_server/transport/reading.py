"""Reads a call's message, within limits on how many are read at once: a message that comes slowly occupies memory.

A call waits unread until a place is free. Flow control keeps what it sends meanwhile below LOOKAHEAD bytes, so memory
is bounded by the places times the largest message, and LOOKAHEAD for every other call. A place goes to the client that
reads the fewest messages. While others wait, a message that takes longer than SLOW is given up, the slowest first.
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
SLOW = 1.0  # seconds that reading a message may take while others wait
RETRY_SLOW = 1.0  # seconds after which a call whose message was given up may try again
END_OF_CALL = 0.05  # seconds in which gRPC cancels a call whose message it has refused


class NoMessage(InvalidArgument):
    """The call ended before its message did."""


class Reading:
    """One call's way to its message. turn: set when it has a place. ended: set to the error that ends it early."""

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
    """Of one event loop. places: messages that are read at once, per_client: by one client. timeout: seconds, from the
    beginning of the call to the end of its message.
    """

    def __init__(self, places: int, per_client: int, timeout: float) -> None:
        self._places = places
        self._per_client = per_client
        self._timeout = timeout
        self._orders = itertools.count()
        self._reading: set[Reading] = set()
        self._waiting: set[Reading] = set()
        self._active: Counter[str] = Counter()  # messages that are read, by client
        self._timer: asyncio.TimerHandle | None = None

    @property
    def unread(self) -> int:
        """The calls whose message was not read yet."""
        return len(self._reading) + len(self._waiting)

    async def read(self, context: grpc.aio.ServicerContext[Any, Any], reservation: Reservation) -> bytes:
        """Raises NoMessage without a message, DeadlineExceeded for a slow one, or what ends the reservation.

        The task that reads is never cancelled: gRPC would lose a message that arrives after that, and its memory.
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
        """Until `awaited` is done; raises what ends the reading before that."""
        left = deadline - asyncio.get_running_loop().time()
        await asyncio.wait((awaited, reading.ended), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if awaited.done():
            return
        if reading.ended.done():
            raise reading.ended.result()
        raise DeadlineExceeded(f"the message did not arrive within {self._timeout:g} s")

    def _share_out(self) -> None:
        """Gives free places to those who wait."""
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
        """Gives up the slowest message when it has taken too long, again and again while somebody waits."""
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
    """Asks for a task's exception, about which Python would warn otherwise."""
    if not message.cancelled():
        message.exception()
