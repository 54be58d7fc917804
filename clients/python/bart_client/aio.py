"""The asyncio client, with the methods of Client as coroutines."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import grpc
from bart_proto.v1 import bart_pb2 as pb
from bart_proto.v1 import bart_pb2_grpc

from bart_client import channel, errors, requests, results
from bart_client.channel import Security
from bart_client.client import common, read_batch, read_generated, read_summary
from bart_client.errors import BartError
from bart_client.results import Generated, Labels, Scored, Summary


class AsyncStream:
    """An asynchronous iterator over the parts of an answer's text, as they are generated.

    result: the whole answer once all parts have been read, None before. Iterating raises BartError if the call fails.
    """

    def __init__(self, call: Any, read: Callable[[Any], tuple[str, Any]]) -> None:
        self._call = call
        self._read = read
        self.result: Any = None

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            async for message in self._call:
                text, result = self._read(message)
                if result is not None:
                    self.result = result
                elif text:
                    yield text
        except grpc.RpcError as error:
            raise errors.from_call(error) from None

    def cancel(self) -> None:
        """Cancels the call, so that the server stops working on it."""
        self._call.cancel()


class AsyncClient:
    """A client with the methods and arguments of bart_client.Client, for asyncio.

    Make it inside a coroutine, and use it only on the event loop of that coroutine.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        security: Security | None = None,
        token: str | None = None,
        timeout: float = 60.0,
        model: str = "",
        retries: bool = True,
        max_message_bytes: int = 16 << 20,
    ) -> None:
        options = channel.options(security, max_message_bytes, retries)
        if security:
            self._channel = grpc.aio.secure_channel(target, security.credentials(), options)
        else:
            self._channel = grpc.aio.insecure_channel(target, options)
        self._keywords: dict[str, Any] = {"timeout": timeout, "metadata": channel.metadata(token)}
        self._model = model
        self._summarization = bart_pb2_grpc.SummarizationServiceStub(self._channel)
        self._generation = bart_pb2_grpc.GenerationServiceStub(self._channel)
        self._classification = bart_pb2_grpc.ClassificationServiceStub(self._channel)
        self._models = bart_pb2_grpc.ModelServiceStub(self._channel)

    async def summarize(self, text: str, *, long_input: str = "error", **options: Any) -> Summary:
        """The summary of a text. options: generation options under Hugging Face's names.

        long_input: what happens to a text that does not fit into the model. "error": BartError. "truncate": its
        beginning is summarized. "chunk": it is split into windows, which are summarized one by one.
        """
        request = pb.SummarizeRequest(**common(self._model, long_input, options), text=text)
        return results.summary(await self._call(self._summarization.Summarize, request))

    def stream(self, text: str, *, long_input: str = "error", **options: Any) -> AsyncStream:
        """Streams the summary of a text. The stream's `result` is a Summary. Arguments: as for `summarize`."""
        request = pb.StreamSummarizeRequest(**common(self._model, long_input, options), text=text)
        return AsyncStream(self._summarization.StreamSummarize(request, **self._keywords), read_summary)

    async def summarize_batch(
        self, texts: Iterable[str], *, long_input: str = "error", **options: Any
    ) -> list[Summary | BartError]:
        """Summarizes many texts in one call, with the same options. A text that fails has its error for a summary."""
        request = pb.BatchSummarizeRequest(**common(self._model, long_input, options), texts=texts)
        return read_batch(await self._call(self._summarization.BatchSummarize, request))

    async def generate(self, source: str | Sequence[int], *, long_input: str = "error", **options: Any) -> Generated:
        """The best sequences for a source: a text, or token ids with the special tokens.

        long_input: "error" or "truncate". options: generation options under Hugging Face's names.
        """
        request = pb.GenerateRequest(**common(self._model, long_input, options), **requests.source(source))
        return results.generated(await self._call(self._generation.Generate, request))

    def stream_generate(self, source: str | Sequence[int], *, long_input: str = "error", **options: Any) -> AsyncStream:
        """Streams the best sequence for a source.

        The stream's `result` is a Generated. Arguments: as for `generate`.
        """
        request = pb.StreamGenerateRequest(**common(self._model, long_input, options), **requests.source(source))
        return AsyncStream(self._generation.StreamGenerate(request, **self._keywords), read_generated)

    async def score(
        self, source: str | Sequence[int], target: str | Sequence[int], *, long_input: str = "error"
    ) -> Scored:
        """The log-probability of each token of a target, given a source.

        source, target: a text, or token ids with the special tokens. A target id of -100 is not scored. long_input:
        what happens to a source that is too long, "error" or "truncate".
        """
        request = pb.ScoreRequest(
            model=self._model,
            long_input=requests.long_input(long_input),
            **requests.source(source),
            **requests.target(target),
        )
        return results.scored(await self._call(self._generation.Score, request))

    async def classify(
        self,
        text: str,
        labels: Sequence[str],
        *,
        hypothesis_template: str = "",
        multi_label: bool = False,
        long_input: str = "error",
    ) -> Labels:
        """How well each label describes the text, judged by natural language inference, without training on the labels.

        hypothesis_template: a sentence with "{}" in the label's place; empty: "This example is {}." multi_label:
        whether each label is judged by itself; if not, the scores sum to 1. long_input: "error" or "truncate".
        """
        request = pb.ClassifyZeroShotRequest(
            model=self._model,
            text=text,
            labels=labels,
            hypothesis_template=hypothesis_template,
            multi_label=multi_label,
            long_input=requests.long_input(long_input),
        )
        return results.labels(await self._call(self._classification.ClassifyZeroShot, request))

    async def models(self) -> list[pb.Model]:
        """The models that the server has, each with its tasks and limits."""
        return list((await self._call(self._models.ListModels, pb.ListModelsRequest())).models)

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """Waits until a server's health service says SERVING. Raises BartError if that takes over `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._channel.channel_ready()
        except TimeoutError:
            raise BartError(grpc.StatusCode.UNAVAILABLE, f"no server is ready after {timeout:g} s") from None

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, **self._keywords)
        except grpc.RpcError as error:
            raise errors.from_call(error) from None
