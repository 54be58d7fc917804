"""The four services of the contract. Checks come in the order of their price: model, fields, places, tokens."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import grpc
from bart_inference.tokenization import Detokenizer, Window
from bart_proto.v1 import bart_pb2 as pb
from bart_proto.v1 import bart_pb2_grpc

from bart_server.scheduling.contract import Delta, Finish, Hypothesis, Request, Task
from bart_server.scheduling.errors import DeadlineExceeded, InvalidArgument, RequestError
from bart_server.scheduling.scheduler import Scheduler
from bart_server.scheduling.session import Answer, Visit, visit
from bart_server.services import conversion as wire
from bart_server.services import status
from bart_server.services.call import note
from bart_server.services.registry import Limits, Models, Served, describe

TEMPLATE = "This example is {}."
STALL = 30.0  # seconds that a stream may stay unread
BRIEF = 4_000  # characters of a call that are tokenised on the event loop, in less than a millisecond
Context = grpc.aio.ServicerContext[Any, Any]
Result = TypeVar("Result")


class Service:
    """What the servicers share. pool: threads for tokenizers."""

    def __init__(self, models: Models, scheduler: Scheduler, pool: Executor, limits: Limits) -> None:
        self.models = models
        self.scheduler = scheduler
        self.limits = limits
        self._pool = pool

    async def tokenised(self, work: Callable[[], Result], characters: int) -> Result:
        """What `work` makes of a call's texts, which have so many characters; a long call holds up nobody else."""
        if characters <= BRIEF:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def check_text(self, field: str, text: str, limit: int | None = None) -> None:
        size, limit = len(text.encode()), limit or self.limits.text_bytes
        if size > limit:
            raise InvalidArgument(field, f"{size} bytes, at most {limit} are allowed")

    def find(self, name: str, task: Task) -> Served:
        served = self.models.find(name)
        served.need(task)
        note(model=served.name)
        return served

    def windows(self, served: Served, text: str, policy: pb.LongInput, field: str = "text") -> list[Window]:
        """The text as the policy wants it: one window, unless it is CHUNK and the text is long."""
        reader = served.reader(field)
        if policy == pb.LONG_INPUT_TRUNCATE:
            return [reader.truncated(text, field=field)]
        if policy == pb.LONG_INPUT_CHUNK:
            return reader.windows(text, self.limits.windows, field)
        return [reader.whole(text, field=field)]

    async def plan(
        self,
        served: Served,
        windows: Callable[[], list[Window]],
        characters: int,
        options: Mapping[str, Any],
        stream: bool = False,
    ) -> tuple[list[Window], list[Request]]:
        """Tokenises and checks: one request a window, or one a sample."""

        def work() -> tuple[list[Window], list[Request]]:
            found = windows()
            planned = [served.engine.requests(window.ids, options, stream=stream) for window in found]
            return found, [request for requests in planned for request in requests]

        return await self.tokenised(work, characters)


class Summarization(bart_pb2_grpc.SummarizationServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    async def Summarize(self, request: pb.SummarizeRequest, context: Context) -> pb.SummarizeResponse:
        served, options = self._check(request, [("text", request.text)])
        async with visit(self._service.scheduler, 1, remaining(context)) as stay:
            windows, answers = await self._submit(stay, served, request.text, request.long_input, options)
            finishes = [await answer.finish() for answer in answers]
            return noted(summary(served, windows, finishes))

    async def StreamSummarize(self, request: pb.StreamSummarizeRequest, context: Context) -> None:
        served, options = self._check(request, [("text", request.text)])
        async with visit(self._service.scheduler, 1, remaining(context)) as stay:
            windows, answers = await self._submit(stay, served, request.text, request.long_input, options, stream=True)
            finishes = []
            for index, answer in enumerate(answers):
                separator = " " if index else ""
                async for text, ids, finish in pieces(served, answer):
                    if finish:
                        finishes.append(finish)
                    if text or ids or separator:
                        delta = pb.Delta(text=separator + text, token_ids=ids, window=index)
                        await send(context, pb.StreamSummarizeResponse(delta=delta))
                        separator = ""
            response = noted(summary(served, windows, finishes))
            await send(context, pb.StreamSummarizeResponse(summary=response))

    async def BatchSummarize(self, request: pb.BatchSummarizeRequest, context: Context) -> pb.BatchSummarizeResponse:
        if not 1 <= len(request.texts) <= self._service.limits.batch_items:
            limit = self._service.limits.batch_items
            raise InvalidArgument("texts", f"{len(request.texts)} texts, between 1 and {limit} are allowed")
        served, options = self._check(request, [])
        characters = sum(map(len, request.texts))

        async def item(stay: Visit, index: int, text: str) -> pb.BatchSummarizeItem:
            try:
                field = f"texts[{index}]"
                self._service.check_text(field, text)
                check_visible(field, text)
                windows, answers = await self._submit(
                    stay, served, text, request.long_input, options, field, characters=characters
                )
                finishes = [await answer.finish() for answer in answers]
                return pb.BatchSummarizeItem(summary=summary(served, windows, finishes))
            except RequestError as error:
                found = status.status(error)
                return pb.BatchSummarizeItem(
                    error=pb.ItemStatus(code=found.code, message=found.message, details=found.details)
                )

        async with visit(self._service.scheduler, len(request.texts), remaining(context)) as stay:
            items = await asyncio.gather(*(item(stay, index, text) for index, text in enumerate(request.texts)))
        note(items=len(items), errors=sum(item.HasField("error") for item in items))
        return pb.BatchSummarizeResponse(items=items)

    def _check(self, request: Any, texts: Sequence[tuple[str, str]]) -> tuple[Served, dict[str, Any]]:
        served = self._service.find(request.model, Task.GENERATE)
        for field, text in texts:
            self._service.check_text(field, text)
            check_visible(field, text)
        check_policy(request.long_input)
        return served, one_sequence(wire.options(request.options))

    async def _submit(
        self,
        stay: Visit,
        served: Served,
        text: str,
        policy: pb.LongInput,
        options: Mapping[str, Any],
        field: str = "text",
        stream: bool = False,
        characters: int | None = None,
    ) -> tuple[list[Window], list[Answer]]:
        """characters: of the whole call, where it has more texts than this one."""
        service = self._service
        windows, requests = await service.plan(
            served, lambda: service.windows(served, text, policy, field), characters or len(text), options, stream
        )
        return windows, [stay.submit(served.name, request) for request in requests]


class Generation(bart_pb2_grpc.GenerationServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        served = self._check(request)
        options = wire.options(request.options)
        async with visit(self._service.scheduler, 1, remaining(context)) as stay:
            window, answers = await self._submit(stay, served, request, options)
            finishes = [await answer.finish() for answer in answers]
            return noted(generated(served, window, finishes))

    async def StreamGenerate(self, request: pb.StreamGenerateRequest, context: Context) -> None:
        served = self._check(request)
        options = one_sequence(wire.options(request.options))
        async with visit(self._service.scheduler, 1, remaining(context)) as stay:
            window, [answer] = await self._submit(stay, served, request, options, stream=True)
            async for text, ids, finish in pieces(served, answer):
                if text or ids:
                    await send(context, pb.StreamGenerateResponse(delta=pb.Delta(text=text, token_ids=ids)))
                if finish:
                    last = finish
            response = noted(generated(served, window, [last]))
            await send(context, pb.StreamGenerateResponse(result=response))

    def _check(self, request: Any) -> Served:
        served = self._service.find(request.model, Task.GENERATE)
        check_policy(request.long_input, chunk=False)
        if request.WhichOneof("input") is None:
            raise InvalidArgument("input", "unset, either text or token_ids is needed")
        self._service.check_text("text", request.text)
        return served

    async def _submit(
        self, stay: Visit, served: Served, request: Any, options: Mapping[str, Any], stream: bool = False
    ) -> tuple[Window, list[Answer]]:
        def windows() -> list[Window]:
            if request.WhichOneof("input") == "text":
                return self._service.windows(served, request.text, request.long_input)
            ids, most = tuple(request.token_ids.ids), served.engine.description.source_tokens
            if request.long_input == pb.LONG_INPUT_TRUNCATE and len(ids) > most:
                return [Window(0, 0, (*ids[: most - 1], ids[-1]), truncated=True)]  # the last one ends the text
            return [Window(0, 0, ids)]

        [window], requests = await self._service.plan(served, windows, len(request.text), options, stream)
        return window, [stay.submit(served.name, planned) for planned in requests]


class Classification(bart_pb2_grpc.ClassificationServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    async def ClassifyZeroShot(
        self, request: pb.ClassifyZeroShotRequest, context: Context
    ) -> pb.ClassifyZeroShotResponse:
        served = self._service.find(request.model, Task.CLASSIFY)
        template = request.hypothesis_template or TEMPLATE
        self._check(request, template)
        truncate = request.long_input == pb.LONG_INPUT_TRUNCATE

        def plan() -> tuple[list[Window], list[Request]]:
            reader = served.reader()
            fit = reader.truncated if truncate else reader.whole
            windows = [fit(request.text, template.replace("{}", label)) for label in request.labels]
            planned = [served.engine.requests(window.ids, {}, Task.CLASSIFY) for window in windows]
            return windows, [request for requests in planned for request in requests]

        async with visit(self._service.scheduler, len(request.labels), remaining(context)) as stay:
            characters = sum(len(request.text) + len(template) + len(label) for label in request.labels)
            windows, requests = await self._service.tokenised(plan, characters)
            answers = [stay.submit(served.name, planned) for planned in requests]
            finishes = [await answer.finish() for answer in answers]
        scores = probabilities([finish.logits or (0.0, 0.0) for finish in finishes], request.multi_label)
        ranked = sorted(zip(request.labels, scores, strict=True), key=lambda pair: -pair[1])
        return noted(
            pb.ClassifyZeroShotResponse(
                labels=[pb.LabelScore(label=label, score=score) for label, score in ranked],
                usage=usage(served, windows, finishes),
            )
        )

    def _check(self, request: pb.ClassifyZeroShotRequest, template: str) -> None:
        limits = self._service.limits
        check_policy(request.long_input, chunk=False)
        self._service.check_text("text", request.text)
        if not 1 <= len(request.labels) <= limits.labels:
            raise InvalidArgument("labels", f"{len(request.labels)} labels, between 1 and {limits.labels} are allowed")
        if template.count("{}") != 1:
            raise InvalidArgument("hypothesis_template", f"holds {template.count('{}')} times {{}}, 1 is needed")
        for index, label in enumerate(request.labels):
            check_visible(f"labels[{index}]", label)
            self._service.check_text(f"labels[{index}]", template.replace("{}", label), limits.label_bytes)


class ModelInformation(bart_pb2_grpc.ModelServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        models = [describe(served, self._service.limits) for served in self._service.models.all()]
        return pb.ListModelsResponse(models=models)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=describe(self._service.models.find(request.name), self._service.limits))


# ── checks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def remaining(context: Context) -> float | None:
    """Seconds to the caller's deadline, None without one (which grpc may call infinite)."""
    seconds = context.time_remaining()
    return seconds if seconds is not None and math.isfinite(seconds) else None


def check_policy(policy: pb.LongInput, chunk: bool = True) -> None:
    if policy not in pb.LongInput.values():
        raise InvalidArgument("long_input", f"{policy} is no value of bart.v1.LongInput")
    if policy == pb.LONG_INPUT_CHUNK and not chunk:
        raise InvalidArgument("long_input", "LONG_INPUT_CHUNK is for summaries only")


def check_visible(field: str, text: str) -> None:
    if not text.strip():
        raise InvalidArgument(field, "blank, at least 1 visible character is needed")


def one_sequence(options: dict[str, Any]) -> dict[str, Any]:
    """Summaries and streams have one answer, whatever the checkpoint's default is."""
    asked = options.setdefault("num_return_sequences", 1)
    if asked != 1:
        raise InvalidArgument("options.num_return_sequences", f"{asked}, only Generate returns more than 1")
    return options


# ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def pieces(served: Served, answer: Answer) -> AsyncIterator[tuple[str, tuple[int, ...], Finish | None]]:
    """Yields (text, token ids, None) as they become final, and at last (text, token ids, Finish)."""
    detokenizer = Detokenizer(served.text.tokenizer) if served.text else None
    finish = None
    while finish is None:
        event = await answer.next()
        ids = event.tokens if isinstance(event, Delta) else ()
        finish = event if isinstance(event, Finish) else None
        text = detokenizer.push(ids, last=finish is not None) if detokenizer else ""
        yield text, ids, finish


async def send(context: Context, message: Any) -> None:
    """Writes to a stream. One that stays unread is given up, so that it does not hold its places for ever."""
    try:
        async with asyncio.timeout(STALL):
            await context.write(message)
    except TimeoutError:
        raise DeadlineExceeded(f"the stream was not read for {STALL:.0f} s") from None


def sequence(served: Served, hypothesis: Hypothesis) -> pb.Sequence:
    return pb.Sequence(
        text=served.text.decode(hypothesis.tokens) if served.text else "",
        token_ids=hypothesis.tokens,
        score=hypothesis.score,
        finish_reason=wire.finish_reason(hypothesis),
    )


def summary(served: Served, windows: Sequence[Window], finishes: Sequence[Finish]) -> pb.SummarizeResponse:
    parts = [
        pb.Window(
            begin=window.begin,
            end=window.end,
            input_tokens=len(window.ids),
            summary=sequence(served, finish.hypotheses[0]),
        )
        for window, finish in zip(windows, finishes, strict=True)
    ]
    return pb.SummarizeResponse(
        text=" ".join(part.summary.text for part in parts), windows=parts, usage=usage(served, windows, finishes)
    )


def generated(served: Served, window: Window, finishes: Sequence[Finish]) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        sequences=[sequence(served, hypothesis) for finish in finishes for hypothesis in finish.hypotheses],
        usage=usage(served, [window], finishes),
    )


def usage(served: Served, windows: Sequence[Window], finishes: Sequence[Finish]) -> pb.Usage:
    return pb.Usage(
        input_tokens=sum(len(window.ids) for window in windows),
        output_tokens=sum(len(hypothesis.tokens) for finish in finishes for hypothesis in finish.hypotheses),
        truncated=any(window.truncated for window in windows),
        queue_time=wire.duration(max(finish.queued for finish in finishes)),
        compute_time=wire.duration(max(finish.computed for finish in finishes)),
        model=served.name,
        model_revision=served.engine.description.revision,
    )


def noted(response: Any) -> Any:
    """The response, its usage noted for the log and the trace."""
    found: pb.Usage = response.usage
    note(
        input_tokens=found.input_tokens,
        output_tokens=found.output_tokens,
        queue_seconds=found.queue_time.ToNanoseconds() / 1e9,
        compute_seconds=found.compute_time.ToNanoseconds() / 1e9,
    )
    return response


def probabilities(logits: Sequence[tuple[float, float]], multi_label: bool) -> list[float]:
    """Scores from (contradiction, entailment) logits, as Hugging Face's zero-shot pipeline has them."""
    if multi_label or len(logits) == 1:
        return [1 / (1 + math.exp(min(700.0, contradiction - entailment))) for contradiction, entailment in logits]
    most = max(entailment for _, entailment in logits)
    weights = [math.exp(entailment - most) for _, entailment in logits]
    return [weight / sum(weights) for weight in weights]
