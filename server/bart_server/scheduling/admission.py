"""How much may be in flight at once, and how long it takes to end. Pure Python, not thread-safe by itself.

Two budgets: requests (from the first byte to the last, so that waiting for a tokenizer counts too) and cost (estimated
padded tokens x beams, from admission to the last token). Whatever does not fit is refused at once: an overloaded server
that queues without limit answers everybody too late.
"""

import math
from dataclasses import dataclass

from bart_server.scheduling.errors import Overloaded

HALF_LIFE = 30.0  # seconds of work after which a measurement counts half
TRUSTED = 1.0  # seconds of work before the measured speed is used to refuse anybody
LONGEST_HINT = 30.0  # seconds; a longer hint would outlive what it is based on


@dataclass(frozen=True)
class Budget:
    """requests: at once, waiting ones included. cost: their estimated padded tokens x beams."""

    requests: int = 256
    cost: int = 1_000_000


class Speed:
    """Cost retired per second of work, with exponential forgetting. Seconds in which several work count once."""

    def __init__(self) -> None:
        self._cost = 0.0
        self._seconds = 0.0
        self._fresh = 0  # retired since seconds were last counted
        self._working = 0  # who has begun and not ended
        self._counted = 0.0  # until when their seconds are

    def retired(self, cost: int) -> None:
        self._fresh += cost

    def began(self, now: float) -> None:
        if not self._working:
            self._counted = now
        self._working += 1

    def ended(self, now: float, worked: bool) -> None:
        """worked: False for one who found nothing to do, whose seconds say nothing."""
        self._working -= 1
        if not worked:
            return
        seconds, self._counted = now - self._counted, now
        keep = 0.5 ** (seconds / HALF_LIFE)
        self._cost = self._cost * keep + self._fresh
        self._seconds = self._seconds * keep + seconds
        self._fresh = 0

    def seconds(self, cost: float) -> float | None:
        """How long `cost` takes, or None while too little has been seen."""
        if self._seconds < TRUSTED or self._cost <= 0:
            return None
        return cost / self._cost * self._seconds


class Admission:
    """The two budgets and the refusals."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.speed = Speed()
        self.requests = 0
        self.cost = 0

    def enter(self, count: int) -> None:
        """Takes places for `count` requests, or raises Overloaded."""
        if self.requests + count > self.budget.requests:
            mean = self.cost / max(1, self.requests)
            raise Overloaded(
                f"{self.requests} requests are in work, this call brings {count}; the limit is {self.budget.requests}",
                self._hint(mean * (self.requests + count - self.budget.requests)),
            )
        self.requests += count

    def leave(self, count: int) -> None:
        self.requests -= count

    def admit(self, cost: int, ahead: int, remaining: float | None) -> None:
        """Takes room for `cost`, or raises Overloaded.

        ahead: the cost that is served first. remaining: seconds to the deadline, None without one.
        """
        if self.cost + cost > self.budget.cost:
            raise Overloaded(
                f"{self.cost} padded tokens x beams are in work, this request brings {cost}; "
                f"the limit is {self.budget.cost}",
                self._hint(self.cost + cost - self.budget.cost),
            )
        wait = self.speed.seconds(ahead + cost)
        if remaining is not None and wait is not None and wait > remaining:
            raise Overloaded(
                f"about {wait:.1f} s of work are ahead of a deadline in {remaining:.1f} s", self._hint(ahead)
            )
        self.cost += cost

    def retire(self, cost: int, served: bool) -> None:
        """Gives room back. served: to the end, so that it says something about the speed."""
        self.cost -= cost
        if served:
            self.speed.retired(cost)

    def _hint(self, cost: float) -> float:
        """Seconds after which another try makes sense."""
        seconds = self.speed.seconds(cost)
        return min(LONGEST_HINT, max(0.1, 1.0 if seconds is None else math.ceil(seconds * 10) / 10))
