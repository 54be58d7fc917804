"""Implements bart.v1.SummarizationService.

Cheap checks come first: the model, the request's fields, places in the server, and after tokenization the tokens.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from bart_inference.tokenization import Window
from bart_proto.v1 import bart_pb2 as pb

from bart_server.scheduling.contract import Finish
from bart_server.scheduling.errors import RequestError
from bart_server.scheduling.session import Answer, Session
from bart_server.scheduling.tasks import Generate
from bart_server.services import conversion
from bart_server.services.backend import Backend, text_deltas
from bart_server.services.call import Call
from bart_server.services.limits import check_count, check_not_blank, check_policy, check_size, one_sequence
from bart_server.services.models import Served
from bart_server.services.status import status


class SummarizationService:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def summarize(self, request: pb.SummarizeRequest, call: Call) -> pb.SummarizeResponse:
        served, options = self._check(request, call)
        self._check_text("text", request.text)
        with self._backend.session(served, 1, call) as session:
            windows, answers = await self._submit(session, served, request.text, request.long_input, options)
            finishes = await session.finish(answers)
            return summary(call, served, windows, finishes)

    async def stream_summarize(
        self, request: pb.StreamSummarizeRequest, call: Call
    ) -> AsyncGenerator[pb.StreamSummarizeResponse, None]:
        served, options = self._check(request, call)
        self._check_text("text", request.text)
        with self._backend.session(served, 1, call) as session:
            windows, answers = await self._submit(
                session, served, request.text, request.long_input, options, stream=True
            )
            finishes = []
            for index, answer in enumerate(answers):
                separator = " " if index else ""
                async for text, ids, finish in text_deltas(served, answer):
                    if finish:
                        finishes.append(finish)
                    if text or ids or separator:
                        delta = pb.Delta(text=separator + text, token_ids=ids, window=index)
                        yield pb.StreamSummarizeResponse(delta=delta)
                        separator = ""
            yield pb.StreamSummarizeResponse(summary=summary(call, served, windows, finishes))

    async def batch_summarize(self, request: pb.BatchSummarizeRequest, call: Call) -> pb.BatchSummarizeResponse:
        check_count("texts", len(request.texts), self._backend.limits.batch_items)
        served, options = self._check(request, call)
        characters = sum(map(len, request.texts))

        async def summarize_item(session: Session, index: int, text: str) -> pb.BatchSummarizeItem:
            """The summary of one text, or its error."""
            try:
                field = f"texts[{index}]"
                windows, answers = await self._submit(
                    session, served, text, request.long_input, options, field, characters=characters
                )
                finishes = await session.finish(answers)
                return pb.BatchSummarizeItem(summary=conversion.summary(served, windows, finishes))
            except RequestError as error:
                call.check()  # raises if the whole call has ended, since the error is then not one of this text alone
                failure = status(error)
                item_status = pb.ItemStatus(code=failure.code, message=failure.message, details=failure.details)
                return pb.BatchSummarizeItem(error=item_status)

        with self._backend.session(served, len(request.texts), call) as session:
            waiting = [summarize_item(session, index, text) for index, text in enumerate(request.texts)]
            items = await asyncio.gather(*waiting)
        errors = [item for item in items if item.HasField("error")]
        call.note(items=len(items), errors=len(errors))
        return pb.BatchSummarizeResponse(items=items)

    def _check(self, request: Any, call: Call) -> tuple[Served, dict[str, Any]]:
        """Checks the fields that all requests have. Returns the model and the options."""
        served = self._backend.find(request.model, Generate, call)
        check_policy(request.long_input)
        return served, one_sequence(conversion.options(request.options))

    def _check_text(self, field: str, text: str) -> None:
        check_size(field, text, self._backend.limits.text_bytes)
        check_not_blank(field, text)

    async def _submit(
        self,
        session: Session,
        served: Served,
        text: str,
        policy: pb.LongInput,
        options: Mapping[str, Any],
        field: str = "text",
        stream: bool = False,
        characters: int | None = None,
    ) -> tuple[list[Window], list[Answer]]:
        """Tokenizes a text and submits a request for each of its windows.

        field: the name of the text's field, for errors. characters: the number of characters of all texts of the call,
        None if this is the only text. If it is large, a thread tokenizes the text, so that other calls do not wait.
        """
        backend = self._backend

        def windows() -> list[Window]:
            self._check_text(field, text)
            return backend.windows(served, text, policy, field)

        try:
            parts, requests = await backend.plan(session, served, windows, characters or len(text), options, stream)
        except RequestError:
            session.release(1)
            raise
        return parts, session.submit(requests)


def summary(call: Call, served: Served, windows: Sequence[Window], finishes: Sequence[Finish]) -> pb.SummarizeResponse:
    """The response for one text. Notes its token counts and times for the call's log line."""
    response = conversion.summary(served, windows, finishes)
    call.note(**conversion.usage_facts(response.usage))
    return response
