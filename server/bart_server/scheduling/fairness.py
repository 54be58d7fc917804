"""Shares rows, places and cost equally among clients. Pure functions.

A client is an opaque string. A free row goes to the client, of those with waiting requests, that has the fewest rows.
When there is no room for a new request, the newest waiting request of the client that holds the most is refused, to
make room. A client that is alone may have everything.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar


class Waiting(Protocol):
    """A request that waits.

    due: requests of one client run in this order. order: counts all requests as they arrive.
    """

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
    """The request that runs next: of the client with the fewest rows, the request that is due first."""

    def rank(request: W) -> tuple[int, float, int]:
        return rows.get(request.client, 0), request.due, request.order

    return min(waiting, key=rank)


def displaced(
    missing: float, share: float, client: str, held: Mapping[str, float], waiting: Sequence[W], weights: Sequence[float]
) -> list[W]:
    """The waiting requests to refuse so that `client` gets `missing` units of places or cost. Empty if it may not.

    One after the other, the newest waiting request of the client that holds the most is taken. share: the units that
    `client` will hold; no other client is left with fewer. held: the units of each client, running requests included.
    weights: the units of each waiting request.
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
    """The cost that is served before a new request of `client` ends, apart from its own cost.

    It is the sum of the client's requests that are due no later and, for each other client, of that client's requests,
    but at most as much as `client` itself gets meanwhile, since shares are equal. due, cost: of the new request. costs:
    what remains of the cost of each request in flight.
    """
    same_client = 0.0
    other_clients: dict[str, float] = {}
    for request, remaining in zip(in_flight, costs, strict=True):
        if request.client != client:
            other_clients[request.client] = other_clients.get(request.client, 0.0) + remaining
        elif request.due <= due:
            same_client += remaining
    equal_share = same_client + cost
    return same_client + sum(min(remaining, equal_share) for remaining in other_clients.values())
