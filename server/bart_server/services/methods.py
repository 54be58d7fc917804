"""The methods of the protocol bart.v1, by names such as /bart.v1.ModelService/GetModel, and what serves them."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from bart_proto.v1 import bart_pb2 as pb
from google.protobuf.message import DecodeError, Message

from bart_server.scheduling.errors import InvalidArgument
from bart_server.scheduling.scheduler import Scheduler
from bart_server.services.backend import Backend
from bart_server.services.call import Call
from bart_server.services.classification import ClassificationService
from bart_server.services.generation import GenerationService
from bart_server.services.limits import Limits
from bart_server.services.models import Models, ModelService
from bart_server.services.sizes import check_sizes
from bart_server.services.summarization import SummarizationService

Response = Awaitable[Message] | AsyncGenerator[Message, None]
Function = Callable[[Any, Call], Response]


@dataclass(frozen=True)
class Method:
    """A method of the protocol.

    service: its service's full name. short_name: its name in the service. request, response: the classes of its
    messages. streams: whether it answers with several messages.
    """

    service: str
    short_name: str
    request: type[Message]
    response: type[Message]
    streams: bool

    @property
    def name(self) -> str:
        """The name that transports use, such as /bart.v1.ModelService/GetModel."""
        return f"/{self.service}/{self.short_name}"

    @property
    def function(self) -> str:
        """The name of the Python function that serves it: stream_summarize for StreamSummarize."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.short_name).lower()

    def parse(self, data: bytes, limits: Limits) -> Message:
        """The request in `data`. Raises InvalidArgument if a field is too large or the bytes are no such message."""
        check_sizes(self.request, data, limits)
        try:
            return self.request.FromString(data)
        except DecodeError:
            description = f"{len(data)} bytes that cannot be parsed as {self.request.DESCRIPTOR.full_name}"
            raise InvalidArgument("request", description) from None


def methods() -> dict[str, Method]:
    """All methods by their names, read from the descriptor of bart.proto."""
    by_name = {}
    for service in pb.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            request, response = getattr(pb, method.input_type.name), getattr(pb, method.output_type.name)
            described = Method(service.full_name, method.name, request, response, method.server_streaming)
            by_name[described.name] = described
    return by_name


METHODS = methods()
SERVICES = tuple(dict.fromkeys(method.service for method in METHODS.values()))  # their full names


class Services:
    """The four services of the protocol, with the same models and scheduler. pool: threads that tokenize."""

    def __init__(self, models: Models, scheduler: Scheduler, pool: Executor, limits: Limits) -> None:
        backend = Backend(models, scheduler, pool, limits)
        implementations = {
            "bart.v1.SummarizationService": SummarizationService(backend),
            "bart.v1.GenerationService": GenerationService(backend),
            "bart.v1.ClassificationService": ClassificationService(backend),
            "bart.v1.ModelService": ModelService(models, limits),
        }
        self._functions: dict[str, Function] = {
            method.name: getattr(implementations[method.service], method.function) for method in METHODS.values()
        }

    def call(self, method: str, message: Message, call: Call) -> Response:
        """The answer to one message: to be awaited, or to be iterated over if `METHODS[method].streams`.

        Raises a RequestError, at once or later; `status.status` turns it into what the caller is told.
        """
        call.check()
        return self._functions[method](message, call)
