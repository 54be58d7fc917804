"""Implements bart.v1.GenerationService.

Cheap checks come first: the model, the request's fields, places in the server, and after tokenization the tokens.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from bart_inference.tokenization import Window
from bart_proto.v1 import bart_pb2 as pb

from bart_server.scheduling.contract import Finish, Request
from bart_server.scheduling.errors import InvalidArgument
from bart_server.scheduling.session import Answer, Session
from bart_server.scheduling.tasks import Generate, Score, Task
from bart_server.services import conversion
from bart_server.services.backend import Backend, text_deltas
from bart_server.services.call import Call
from bart_server.services.limits import check_policy, check_size, one_sequence
from bart_server.services.models import Served


class GenerationService:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def generate(self, request: pb.GenerateRequest, call: Call) -> pb.GenerateResponse:
        served = self._check(request, Generate, call)
        options = conversion.options(request.options)
        with self._backend.session(served, 1, call) as session:
            window, answers = await self._submit(session, served, request, options)
            finishes = await session.finish(answers)
            return generated(call, served, window, finishes)

    async def stream_generate(
        self, request: pb.StreamGenerateRequest, call: Call
    ) -> AsyncGenerator[pb.StreamGenerateResponse, None]:
        served = self._check(request, Generate, call)
        options = one_sequence(conversion.options(request.options))
        with self._backend.session(served, 1, call) as session:
            window, [answer] = await self._submit(session, served, request, options, stream=True)
            async for text, ids, finish in text_deltas(served, answer):
                if text or ids:
                    delta = pb.Delta(text=text, token_ids=ids)
                    yield pb.StreamGenerateResponse(delta=delta)
                if finish:
                    result = generated(call, served, window, [finish])
                    yield pb.StreamGenerateResponse(result=result)

    async def score(self, request: pb.ScoreRequest, call: Call) -> pb.ScoreResponse:
        served = self._check(request, Score, call)
        if request.WhichOneof("target") is None:
            raise InvalidArgument("target", "unset, either target_text or labels is needed")
        check_size("target_text", request.target_text, self._backend.limits.text_bytes)

        def plan() -> tuple[Window, Sequence[int], Sequence[Request]]:
            window = self._source(served, request)
            labels = self._labels(served, request)
            requests = served.engine.requests(Score(window.ids, labels))
            return window, labels, requests

        characters = len(request.text) + len(request.target_text)
        with self._backend.session(served, 1, call) as session:
            window, labels, requests = await self._backend.tokenize(session, plan, characters)
            [finish] = await session.finish(session.submit(requests))
        usage = conversion.usage(served, [window], [finish])
        call.note(**conversion.usage_facts(usage))
        scored = pb.Labels(ids=labels)
        return pb.ScoreResponse(labels=scored, log_probs=finish.values, usage=usage)

    def _check(self, request: Any, task: Task, call: Call) -> Served:
        """Checks the fields that all requests have. Returns the model."""
        served = self._backend.find(request.model, task, call)
        check_policy(request.long_input, chunk=False)
        if request.WhichOneof("input") is None:
            raise InvalidArgument("input", "unset, either text or token_ids is needed")
        check_size("text", request.text, self._backend.limits.text_bytes)
        return served

    async def _submit(
        self, session: Session, served: Served, request: Any, options: Mapping[str, Any], stream: bool = False
    ) -> tuple[Window, list[Answer]]:
        """Tokenizes the source and submits the requests for it: one, or one for each sample."""

        def windows() -> list[Window]:
            return [self._source(served, request)]

        [window], requests = await self._backend.plan(session, served, windows, len(request.text), options, stream)
        return window, session.submit(requests)

    def _source(self, served: Served, request: Any) -> Window:
        """The source of a request, a text or token ids, as one window.

        Of token ids, the window has no place in a text.
        """
        if request.WhichOneof("input") == "text":
            [window] = self._backend.windows(served, request.text, request.long_input)
            return window
        ids = tuple(request.token_ids.ids)
        limit = served.engine.description.source_tokens
        if request.long_input == pb.LONG_INPUT_TRUNCATE and len(ids) > limit:
            shortened = (*ids[: limit - 1], ids[-1])  # keeps the last token, which is normally </s>
            return Window(0, 0, shortened, truncated=True)
        return Window(0, 0, ids)

    def _labels(self, served: Served, request: pb.ScoreRequest) -> Sequence[int]:
        """The token ids of a request's target, a text or labels."""
        if request.WhichOneof("target") == "labels":
            return tuple(request.labels.ids)
        ids = served.reader("target_text").whole(request.target_text, field="target_text").ids
        limit = served.engine.description.target_tokens
        if len(ids) > limit:
            raise InvalidArgument("target_text", f"{len(ids)} tokens, at most {limit} fit")
        return ids


def generated(call: Call, served: Served, window: Window, finishes: Sequence[Finish]) -> pb.GenerateResponse:
    """The response for one source. Notes its token counts and times for the call's log line."""
    response = conversion.generated(served, window, finishes)
    call.note(**conversion.usage_facts(response.usage))
    return response
