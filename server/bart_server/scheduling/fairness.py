"""Fair shares among clients: who runs next, who gives way, and how long a request waits. Pure functions.

A client is an opaque string, and all are entitled to equal shares. A free row goes to the waiting client that has the
fewest rows. When there is no room for a new request, the newest waiting request of the client that has the most gives
way. A client that is alone may have everything.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar


class Waiting(Protocol):
    """A request that waits. due: a client's own requests run in this order. order: the number of its arrival."""

    @property
    def client(self) -> str: ...
    @property
    def due(self) -> float: ...
    @property
    def order(self) -> int: ...
    @property
    def cost(self) -> int: ...


W = TypeVar("W", bound=Waiting)


def next_to_run(waiting: Iterable[W], rows: Mapping[str, int]) -> W:
    """The request that runs next: of a client that has the fewest running rows, the one that is due first."""

    def rank(request: W) -> tuple[int, float, int]:
        return rows.get(request.client, 0), request.due, request.order

    return min(waiting, key=rank)


def displaced(
    missing: float, share: float, client: str, held: Mapping[str, float], waiting: Sequence[W], weights: Sequence[float]
) -> list[W]:
    """The waiting requests that give way so that `client` gets `missing` units of places or cost; empty if none may.

    One after the other, the newest waiting request of the client that holds the most is taken, as long as that client
    keeps at least `share` units, which `client` will then have. held: the units of each client, running requests
    included. weights: the units of each waiting request.
    """
    holdings = dict(held)
    newest: dict[str, list[tuple[int, float, W]]] = {}
    for request, weight in zip(waiting, weights, strict=True):
        newest.setdefault(request.client, []).append((request.order, weight, request))
    newest.pop(client, None)
    for requests in newest.values():
        requests.sort(key=lambda entry: entry[0])
    chosen: list[W] = []
    while missing > 0:
        heaviest = max(newest, key=lambda name: holdings.get(name, 0), default=None)
        if heaviest is None:
            return []
        _, weight, request = newest[heaviest].pop()
        if not newest[heaviest]:
            del newest[heaviest]
        if holdings[heaviest] - weight < share:
            return []
        holdings[heaviest] -= weight
        missing -= weight
        chosen.append(request)
    return chosen


def work_ahead(client: str, due: float, cost: float, in_flight: Sequence[Waiting], costs: Sequence[float]) -> float:
    """The cost that is served before a new request of `client` that is due at `due` and costs `cost`.

    It is the cost that the client itself has due before, and for each other client at most as much as this client will
    have served by then. costs: what is left of each request in flight.
    """
    own_cost = 0.0
    others: dict[str, float] = {}
    for request, left in zip(in_flight, costs, strict=True):
        if request.client != client:
            others[request.client] = others.get(request.client, 0.0) + left
        elif request.due <= due:
            own_cost += left
    return own_cost + sum(min(theirs, own_cost + cost) for theirs in others.values())
