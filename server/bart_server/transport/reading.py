"""Reads the messages of calls, a limited number at once, because a message that arrives slowly occupies memory.

A call waits until there is a place for reading its message. Meanwhile flow control lets it send at most LOOKAHEAD
bytes. So memory is bounded by the places times the size of the largest message, plus LOOKAHEAD for every waiting call.
A free place goes to the client of which the fewest messages are being read. While calls wait, a message that has been
read for SLOW seconds without coming to its end is refused, beginning with the one whose reading began first.
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
END_OF_CALL = 0.05  # seconds in which gRPC cancels the task of a call that has ended or whose message it refused


class NoMessage(InvalidArgument):
    """The call ended before its message did."""


class Reading:
    """A call whose message is not read yet.

    turn: done when the call has a place for reading. ended: its result is the error that ends the reading early. began:
    when the reading began, by the loop's clock.
    """

    def __init__(self, client: str, order: int) -> None:
        loop = asyncio.get_running_loop()
        self.client = client
        self.order = order
        self.turn: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[RequestError] = loop.create_future()
        self.began = 0.0

    def end(self, error: RequestError) -> None:
        """Ends the reading with an error, unless it has one already."""
        if not self.ended.done():
            self.ended.set_result(error)


class Readers:
    """Gives calls places for reading. It belongs to one event loop.

    places: how many messages are read at once. per_client: how many of these may be of one client. timeout: seconds
    from the beginning of a call to the end of its message.
    """

    def __init__(self, places: int, per_client: int, timeout: float) -> None:
        self._places = places
        self._per_client = per_client
        self._timeout = timeout
        self._orders = itertools.count()
        self._reading: set[Reading] = set()
        self._waiting: set[Reading] = set()
        self._active: Counter[str] = Counter()  # how many messages of each client are being read
        self._timer: asyncio.TimerHandle | None = None

    @property
    def unread(self) -> int:
        """The number of calls whose message has not been read to its end."""
        return len(self._reading) + len(self._waiting)

    async def read(self, context: grpc.aio.ServicerContext[Any, Any], reservation: Reservation) -> bytes:
        """The bytes of a call's message.

        Raises NoMessage if the call has none, DeadlineExceeded after the timeout, Overloaded if the message is too slow
        while others wait, and the error with which the reservation is revoked. The task that reads is never cancelled:
        grpc.aio would never free the memory of a message that arrives after that.
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
        """Waits until `awaited` is done. Raises the error that ends the reading first, or DeadlineExceeded."""
        seconds = deadline - asyncio.get_running_loop().time()
        await asyncio.wait((awaited, reading.ended), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
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
        """Takes back the place of a call, which the next one gets."""
        self._waiting.discard(reading)
        if reading in self._reading:
            self._reading.remove(reading)
            self._active[reading.client] -= 1
            self._share_out()
        if not self._active[reading.client]:
            del self._active[reading.client]

    def _watch(self) -> None:
        """Starts a timer that refuses the slowest message after SLOW seconds, if calls still wait then.

        A message counts if it keeps a waiting call from being read: by the last place, or by its client's last place.
        """
        clients = {waiting.client for waiting in self._waiting}
        is_full = len(self._reading) == self._places
        blocking = [reading for reading in self._reading if is_full or reading.client in clients]
        if self._timer or not blocking:
            return
        loop = asyncio.get_running_loop()
        slowest = min(blocking, key=attrgetter("began"))

        def refuse_slowest() -> None:
            self._timer = None
            if not self._waiting:
                return
            if slowest in self._reading and loop.time() >= slowest.began + SLOW:
                slowest.end(Overloaded("the message came too slowly while other calls waited", RETRY_SLOW))
                loop.call_soon(self._watch)
            else:
                self._watch()

        self._timer = loop.call_at(max(slowest.began + SLOW, loop.time() + SLOW / 20), refuse_slowest)


def retrieve(message: "asyncio.Future[Any]") -> None:
    """Reads the exception of a finished task; otherwise asyncio would log that nobody did."""
    if not message.cancelled():
        message.exception()
