"""Limits how much work is in flight at once, and estimates how long it takes. Callers hold the scheduler's lock.

There are two budgets. Requests count from before their call's message is read until they end, so that waiting for a
tokenizer counts too. Cost, the estimated padded tokens x beams, counts from when a request is admitted until it ends.
What does not fit is refused at once: if an overloaded server queued it, every answer would come too late.
"""

import math
from dataclasses import dataclass

from bart_server.scheduling.errors import Overloaded

HALF_LIFE = 30.0  # seconds after which a measurement has half its weight
MIN_OBSERVED = 1.0  # seconds of work that are measured before the throughput is used
# The longest pause in seconds that a refused caller is told. What is in flight now says nothing about a later time.
MAX_RETRY_AFTER = 30.0


@dataclass(frozen=True)
class Budget:
    """The most that may be in flight. requests: their number. cost: the sum of their estimated tokens x beams."""

    requests: int = 256
    cost: int = 1_000_000


class Throughput:
    """Measures how much cost is finished per second of work. A second in which several workers work counts once.

    Measurements lose weight with time, by HALF_LIFE, also while the server is idle. One iteration of a worker counts at
    most as many seconds as all earlier ones together, so that one slow call of the device at most halves the estimate.
    """

    def __init__(self) -> None:
        self._cost = 0.0
        self._seconds = 0.0
        self._uncounted_cost = 0  # the cost that was finished since the seconds were last counted
        self._active = 0  # workers that are inside an iteration of the scheduler
        self._counted_until = 0.0  # the time up to which the seconds of work are counted
        self._decayed_at: float | None = None  # None before the first measurement

    def retired(self, cost: int) -> None:
        """A request of this cost was computed to its end."""
        self._uncounted_cost += cost

    def began(self, now: float) -> None:
        """A worker begins an iteration. now: seconds of the scheduler's clock."""
        if not self._active:
            self._counted_until = now
        self._active += 1

    def ended(self, now: float, worked: bool) -> None:
        """A worker ends an iteration. worked: whether it had anything to do; if not, its seconds are not counted."""
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
        """Reduces the weight of what was measured before."""
        if self._decayed_at is not None:
            weight = 0.5 ** ((now - self._decayed_at) / HALF_LIFE)
            self._cost *= weight
            self._seconds *= weight
        self._decayed_at = now

    def seconds(self, cost: float) -> float | None:
        """Seconds of work that `cost` takes. None before MIN_OBSERVED seconds of work have been measured."""
        if self._seconds < MIN_OBSERVED or self._cost <= 0:
            return None
        return cost / self._cost * self._seconds


class Admission:
    """How much of the two budgets is in use. requests: their number. cost: the sum of the admitted requests' costs."""

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
        """Gives the places of `count` requests back."""
        self.requests -= count

    def admit(self, cost: int, ahead: float, remaining: float | None, latency: float | None = None) -> None:
        """Takes `cost` of the budget. Raises Overloaded if there is too little, or no time before the deadline.

        ahead: the cost of the requests that are served first; if it is 0, the deadline is not checked. remaining:
        seconds until the deadline, None without one. latency: seconds that such a request takes once it runs, None if
        unknown.
        """
        if self.cost + cost > self.budget.cost:
            raise Overloaded(
                f"{self.cost} padded tokens x beams are in flight, this request brings {cost}; "
                f"the limit is {self.budget.cost}",
                self.retry_after(self.cost + cost - self.budget.cost),
            )
        wait = self.throughput.seconds(ahead + cost)
        if ahead and remaining is not None and wait is not None:
            wait = max(wait, (self.throughput.seconds(ahead) or 0.0) + (latency or 0.0))  # the later of two estimates
            if wait > remaining:
                message = f"the answer would take about {wait:.1f} s, the deadline is in {remaining:.1f} s"
                raise Overloaded(message, self.retry_after(ahead))
        self.cost += cost

    def retire(self, cost: int, served: bool) -> None:
        """Gives `cost` back. served: whether the request was computed to its end, so that it counts as throughput."""
        self.cost -= cost
        if served:
            self.throughput.retired(cost)

    def retry_after(self, cost: float) -> float:
        """Seconds that a refused caller is told to wait: those that `cost` takes, at least 0.1 and at most 30.

        1 second if no throughput was measured yet.
        """
        seconds = self.throughput.seconds(cost)
        return min(MAX_RETRY_AFTER, max(0.1, 1.0 if seconds is None else math.ceil(seconds * 10) / 10))
