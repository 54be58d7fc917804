"""bart.v1.GenerationService. Checks come in the order of their price: model, fields, places, tokens."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from bart_inference.tokenization import Window
from bart_proto.v1 import bart_pb2 as pb

from bart_server.scheduling.contract import Finish
from bart_server.scheduling.errors import InvalidArgument
from bart_server.scheduling.session import Answer, Session
from bart_server.scheduling.tasks import Generate
from bart_server.services import conversion
from bart_server.services.backend import Backend, pieces
from bart_server.services.call import Call
from bart_server.services.limits import check_policy, check_size, one_sequence
from bart_server.services.models import Served


class GenerationService:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def generate(self, request: pb.GenerateRequest, call: Call) -> pb.GenerateResponse:
        served = self._check(request, call)
        options = conversion.options(request.options)
        with self._backend.session(served, 1, call) as session:
            window, answers = await self._submit(session, served, request, options)
            finishes = [await answer.finish() for answer in answers]
            return generated(call, served, window, finishes)

    async def stream_generate(
        self, request: pb.StreamGenerateRequest, call: Call
    ) -> AsyncGenerator[pb.StreamGenerateResponse, None]:
        served = self._check(request, call)
        options = one_sequence(conversion.options(request.options))
        with self._backend.session(served, 1, call) as session:
            window, [answer] = await self._submit(session, served, request, options, stream=True)
            async for text, ids, finish in pieces(served, answer):
                if text or ids:
                    yield pb.StreamGenerateResponse(delta=pb.Delta(text=text, token_ids=ids))
                if finish:
                    yield pb.StreamGenerateResponse(result=generated(call, served, window, [finish]))

    def _check(self, request: Any, call: Call) -> Served:
        served = self._backend.find(request.model, Generate, call)
        check_policy(request.long_input, chunk=False)
        if request.WhichOneof("input") is None:
            raise InvalidArgument("input", "unset, either text or token_ids is needed")
        check_size("text", request.text, self._backend.limits.text_bytes)
        return served

    async def _submit(
        self, session: Session, served: Served, request: Any, options: Mapping[str, Any], stream: bool = False
    ) -> tuple[Window, list[Answer]]:
        backend = self._backend

        def windows() -> list[Window]:
            if request.WhichOneof("input") == "text":
                return backend.windows(served, request.text, request.long_input)
            ids, limit = tuple(request.token_ids.ids), served.engine.description.source_tokens
            if request.long_input == pb.LONG_INPUT_TRUNCATE and len(ids) > limit:
                return [Window(0, 0, (*ids[: limit - 1], ids[-1]), truncated=True)]  # the last one ends the text
            return [Window(0, 0, ids)]

        [window], requests = await backend.plan(session, served, windows, len(request.text), options, stream)
        return window, [session.submit(planned) for planned in requests]


def generated(call: Call, served: Served, window: Window, finishes: Sequence[Finish]) -> pb.GenerateResponse:
    response = conversion.generated(served, window, finishes)
    call.note(**conversion.usage_facts(response.usage))
    return response
