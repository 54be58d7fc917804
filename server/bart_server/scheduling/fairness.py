"""Fair shares among clients: who runs next, who gives way, and how long a request waits. Pure functions.

A client is an opaque string. Each is entitled to an equal share: free rows go to the client that has the fewest, and
when there is no room, what waits longest by the newest request of the client that has the most gives way. A client that
is alone may have everything.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar


class Waiting(Protocol):
    """A request that waits. due: orders a client's own requests. order: ascending in the order of arrival."""

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
    """Of the clients that wait, one that runs in the fewest rows; of its requests, the one that is due first."""

    def rank(request: W) -> tuple[int, float, int]:
        return rows.get(request.client, 0), request.due, request.order

    return min(waiting, key=rank)


def displaced(
    missing: float, share: float, client: str, held: Mapping[str, float], waiting: Sequence[W], weights: Sequence[float]
) -> list[W]:
    """The waiting requests that give way to `client`, which lacks `missing`; empty when that would not be fair.

    The newest request of whoever holds most gives way, as long as its client keeps at least `share`: what `client` has
    in the end. held: how much of what is short each client holds, for requests that run too. weights: how much of it
    each waiting request holds.
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
    """The cost that is served before a new request: what its client has that is due before it, and of every other
    client at most as much as this client has then. costs: what is left of each request in flight.
    """
    own = 0.0
    others: dict[str, float] = {}
    for request, left in zip(in_flight, costs, strict=True):
        if request.client != client:
            others[request.client] = others.get(request.client, 0.0) + left
        elif request.due <= due:
            own += left
    return own + sum(min(theirs, own + cost) for theirs in others.values())
