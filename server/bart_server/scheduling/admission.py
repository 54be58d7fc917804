"""How much may be in flight at once, and how long it takes to end. Pure Python; its callers hold a lock.

Two budgets limit it: requests, each from the first byte to the last, so that waiting for a tokenizer counts too; and
cost, the estimated padded tokens x beams, from admission to the last token. What does not fit is refused at once,
because an overloaded server that queues without limit answers every call too late.
"""

import math
from dataclasses import dataclass

from bart_server.scheduling.errors import Overloaded

HALF_LIFE = 30.0  # seconds of work after which a measurement has half its weight
MIN_OBSERVED = 1.0  # seconds of work before the measured throughput is used to refuse a request
MAX_RETRY_AFTER = 30.0  # seconds; the requests in flight say nothing about a later time


@dataclass(frozen=True)
class Budget:
    """The most that may be in flight. requests: their number. cost: the sum of their estimated tokens x beams."""

    requests: int = 256
    cost: int = 1_000_000


class Throughput:
    """Cost that is finished per second of work, measured. Seconds in which several workers work count once.

    Measurements lose weight with a half-life, also while the server is idle. One iteration counts for at most as many
    seconds as all earlier ones together, so that a single stall of the device at most halves the estimate.
    """

    def __init__(self) -> None:
        self._cost = 0.0
        self._seconds = 0.0
        self._uncounted_cost = 0  # the cost that was finished since the seconds were last counted
        self._active = 0  # workers that are inside an iteration of the scheduler
        self._counted_until = 0.0  # the time up to which the seconds of work are counted
        self._decayed_at: float | None = None  # None before the first measurement

    def retired(self, cost: int) -> None:
        self._uncounted_cost += cost

    def began(self, now: float) -> None:
        if not self._active:
            self._counted_until = now
        self._active += 1

    def ended(self, now: float, worked: bool) -> None:
        """An iteration has ended. worked: False if it had nothing to do; then its seconds are not counted."""
        self._active -= 1
        if not worked:
            return
        seconds, self._counted_until = now - self._counted_until, now
        self._decay(now)
        if self._seconds >= MIN_OBSERVED:
            seconds = min(seconds, self._seconds)
        self._cost += self._uncounted_cost
        self._seconds += seconds
        self._uncounted_cost = 0

    def _decay(self, now: float) -> None:
        if self._decayed_at is not None:
            weight = 0.5 ** ((now - self._decayed_at) / HALF_LIFE)
            self._cost *= weight
            self._seconds *= weight
        self._decayed_at = now

    def seconds(self, cost: float) -> float | None:
        """Seconds that `cost` takes, or None before MIN_OBSERVED seconds of work have been measured."""
        if self._seconds < MIN_OBSERVED or self._cost <= 0:
            return None
        return cost / self._cost * self._seconds


class Admission:
    """What is in flight of the two budgets. Its methods take more of them or refuse with Overloaded."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.throughput = Throughput()
        self.requests = 0
        self.cost = 0

    def reserve(self, count: int) -> None:
        """Takes places for `count` requests, or raises Overloaded."""
        if self.requests + count > self.budget.requests:
            limit = self.budget.requests
            excess = self.cost / max(1, self.requests) * (self.requests + count - limit)
            message = f"{self.requests} requests are in flight, this call brings {count}; the limit is {limit}"
            raise Overloaded(message, self.retry_after(excess))
        self.requests += count

    def release(self, count: int) -> None:
        self.requests -= count

    def admit(self, cost: int, ahead: float, remaining: float | None, latency: float | None = None) -> None:
        """Takes room for `cost`, or raises Overloaded if the budget or the deadline does not allow it.

        ahead: the cost that is served before; if it is 0, no deadline is refused. remaining: seconds to the deadline,
        None without one. latency: seconds that the request takes once it has begun, None if that is not known.
        """
        if self.cost + cost > self.budget.cost:
            raise Overloaded(
                f"{self.cost} padded tokens x beams are in flight, this request brings {cost}; "
                f"the limit is {self.budget.cost}",
                self.retry_after(self.cost + cost - self.budget.cost),
            )
        wait = self.throughput.seconds(ahead + cost)
        if ahead and remaining is not None and wait is not None:
            wait = max(wait, (self.throughput.seconds(ahead) or 0.0) + (latency or 0.0))
            if wait > remaining:
                message = f"about {wait:.1f} s of work are ahead of a deadline in {remaining:.1f} s"
                raise Overloaded(message, self.retry_after(ahead))
        self.cost += cost

    def retire(self, cost: int, served: bool) -> None:
        """Gives room back. served: whether the request was computed to its end, so that it counts as throughput."""
        self.cost -= cost
        if served:
            self.throughput.retired(cost)

    def retry_after(self, cost: float) -> float:
        """Seconds that a refused caller is told to wait: the time that `cost` takes, 1 if unknown, from 0.1 to 30."""
        seconds = self.throughput.seconds(cost)
        return min(MAX_RETRY_AFTER, max(0.1, 1.0 if seconds is None else math.ceil(seconds * 10) / 10))
