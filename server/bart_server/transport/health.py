"""Implements the health service grpc.health.v1 for asyncio.

The servicer of the package grpcio-health-checking is not used because of two faults. It keeps one asyncio.Condition for
all watchers of a service and deletes it when any of them leaves; after that the others get no more changes. And it
holds the condition while it writes, so one slow watcher blocks the others.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
# A service name for probes that restart a process that is not alive: it is SERVING while the server loads and drains.
LIVENESS = "liveness"
Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the stubs have no types
    """The health service. All services, and the server (the empty name), have the same status, at first NOT_SERVING.

    alive: whether the process can still become ready. `set` must be called on the event loop that serves.
    """

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = frozenset(services) | {""}
        self.alive = True
        self._status = NOT_SERVING
        self._changed = asyncio.Event()

    @property
    def serving(self) -> bool:
        return bool(self._status == SERVING)

    def set(self, serving: bool) -> None:
        """Changes the status and wakes every watcher."""
        self._status = SERVING if serving else NOT_SERVING
        self._changed.set()
        self._changed = asyncio.Event()

    def _status_of(self, service: str) -> int:
        if service == LIVENESS:
            return int(SERVING if self.alive else NOT_SERVING)
        return int(self._status if service in self._services else SERVICE_UNKNOWN)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        status = self._status_of(request.service)
        if status == SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        sent = None
        while True:
            changed = self._changed
            status = self._status_of(request.service)
            if status != sent:
                sent = status
                yield health_pb2.HealthCheckResponse(status=status)
            else:
                await changed.wait()
