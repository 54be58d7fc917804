"""Call: what a transport tells the services about a call, besides its message."""

import random
import time
from collections.abc import Callable
from typing import Any

from bart_server.scheduling.errors import Cancelled, DeadlineExceeded, RequestError
from bart_server.scheduling.jobs import Reservation

# Seconds. A client cancels its call when the deadline passes. The client starts to count before the server does, so the
# cancellation arrives shortly before the server's own deadline for the call. A call that is cancelled at most this long
# before the server's deadline therefore ends with DeadlineExceeded instead of Cancelled.
CANCELLED_EARLY = 0.1


def new_request_id() -> str:
    """A random request id: 32 hexadecimal digits."""
    return f"{random.getrandbits(128):032x}"


class Call:
    """One call: its caller, deadline and id, and facts about it for the log and the trace.

    timeout: seconds until the caller's deadline, None without one. identity: an opaque name of the caller; empty if the
    transport does not tell callers apart. request_id: the caller's id for the call; if empty, a new one is made.
    reservation: the places that the transport took before it read the message, None if it took none.

    A call belongs to one event loop. It can end early in two ways: the task that runs it is cancelled, or somebody
    calls `cancel`, after which the service raises Cancelled.
    """

    def __init__(
        self,
        timeout: float | None = None,
        identity: str = "",
        request_id: str = "",
        reservation: Reservation | None = None,
    ) -> None:
        self.identity = identity
        self.reservation = reservation
        self.request_id = request_id or new_request_id()
        self.cancelled = False
        self.facts: dict[str, Any] = {"request_id": self.request_id}  # for the log: never texts, tokens or labels
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._on_end: list[Callable[[RequestError], None]] = []

    def remaining(self) -> float | None:
        """Seconds until the deadline, negative after it, None without one."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def cancellation(self) -> RequestError:
        """The error of a call whose task was cancelled: its deadline passed, or its caller gave up."""
        if self._deadline is not None and self._deadline <= time.monotonic() + CANCELLED_EARLY:
            return DeadlineExceeded("the deadline passed")
        return Cancelled("the caller cancelled the call")

    def note(self, **facts: Any) -> None:
        """Adds facts for the log and the trace."""
        self.facts.update(facts)

    def cancel(self) -> None:
        """Ends the call; its requests leave the scheduler at once. Called on the call's event loop."""
        self.cancelled = True
        for end in self._on_end:
            end(Cancelled("the caller cancelled the call"))

    def on_cancel(self, end: Callable[[RequestError], None]) -> None:
        """Registers `end`, which is called with a Cancelled if the call is cancelled."""
        self._on_end.append(end)

    def check(self) -> None:
        """Raises Cancelled or DeadlineExceeded if the call is over."""
        if self.cancelled:
            raise Cancelled("the caller cancelled the call")
        if self._deadline is not None and self._deadline <= time.monotonic():
            raise DeadlineExceeded("the deadline passed")
