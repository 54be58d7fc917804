"""Server reflection, which lists the services and their messages, for callers with a token."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from bart_server.runtime import Runtime
from bart_server.scheduling.errors import Unauthenticated
from bart_server.transport.authentication import Authentication

REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
Context = grpc.aio.ServicerContext[Any, Any]


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # the package has no types
    """The standard servicer, which refuses calls without a token and counts them."""

    def __init__(self, services: tuple[str, ...], authentication: Authentication, runtime: Runtime) -> None:
        super().__init__(service_names=services)
        self._authentication = authentication
        self._runtime = runtime

    async def ServerReflectionInfo(
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        try:
            self._authentication.identify(dict(context.invocation_metadata() or ()))
        except Unauthenticated as error:
            self._runtime.metrics.call_refused("reflection", "UNAUTHENTICATED")
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        async for response in super().ServerReflectionInfo(requests, context):
            yield response


def add_reflection(
    server: grpc.aio.Server, services: tuple[str, ...], authentication: Authentication, runtime: Runtime
) -> None:
    """Adds the reflection service as v1 and as v1alpha, which differ only in their names."""
    names = (*services, reflection.SERVICE_NAME, REFLECTION_V1)
    servicer = Reflection(names, authentication, runtime)
    add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(REFLECTION_V1, handlers),))
