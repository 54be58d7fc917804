"""The synchronous client, and what both clients use to make requests and read answers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grpc
from bart_proto.v1 import bart_pb2 as pb
from bart_proto.v1 import bart_pb2_grpc
from google.rpc import status_pb2

from bart_client import channel, errors, requests, results
from bart_client.channel import Security
from bart_client.errors import BartError
from bart_client.results import Generated, Labels, Scored, Summary


class Stream:
    """An iterator over the parts of an answer's text, as they are generated.

    result: the whole answer once all parts have been read, None before. Iterating raises BartError if the call fails.
    """

    def __init__(self, call: Any, read: Callable[[Any], tuple[str, Any]]) -> None:
        self._call = call
        self._read = read
        self.result: Any = None

    def __iter__(self) -> Iterator[str]:
        try:
            for message in self._call:
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


class Client:
    """A client of one server, or of all servers with the addresses of one DNS name, which calls use in turn.

    It may be used from several threads. target: HOST:PORT. security: the TLS settings; None: a connection without TLS.
    token: a bearer token that each call carries. timeout: seconds for each call, its retries included. model: the name
    of the model; empty: the server's first. retries: whether a call that the server refuses for the moment is tried
    again. max_message_bytes: the size of the largest answer that is accepted.
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
            self._channel = grpc.secure_channel(target, security.credentials(), options)
        else:
            self._channel = grpc.insecure_channel(target, options)
        self._keywords: dict[str, Any] = {"timeout": timeout, "metadata": channel.metadata(token)}
        self._model = model
        self._summarization = bart_pb2_grpc.SummarizationServiceStub(self._channel)
        self._generation = bart_pb2_grpc.GenerationServiceStub(self._channel)
        self._classification = bart_pb2_grpc.ClassificationServiceStub(self._channel)
        self._models = bart_pb2_grpc.ModelServiceStub(self._channel)

    def summarize(self, text: str, *, long_input: str = "error", **options: Any) -> Summary:
        """The summary of a text. options: generation options under Hugging Face's names.

        long_input: what happens to a text that does not fit into the model. "error": BartError. "truncate": its
        beginning is summarized. "chunk": it is split into windows, which are summarized one by one.
        """
        request = pb.SummarizeRequest(**self._common(long_input, options), text=text)
        return results.summary(self._call(self._summarization.Summarize, request))

    def stream(self, text: str, *, long_input: str = "error", **options: Any) -> Stream:
        """Streams the summary of a text. The stream's `result` is a Summary. Arguments: as for `summarize`."""
        request = pb.StreamSummarizeRequest(**self._common(long_input, options), text=text)
        return Stream(self._summarization.StreamSummarize(request, **self._keywords), read_summary)

    def summarize_batch(
        self, texts: Iterable[str], *, long_input: str = "error", **options: Any
    ) -> list[Summary | BartError]:
        """Summarizes many texts in one call, with the same options. A text that fails has its error for a summary."""
        request = pb.BatchSummarizeRequest(**self._common(long_input, options), texts=texts)
        return read_batch(self._call(self._summarization.BatchSummarize, request))

    def generate(self, source: str | Sequence[int], *, long_input: str = "error", **options: Any) -> Generated:
        """The best sequences for a source: a text, or token ids with the special tokens.

        long_input: "error" or "truncate". options: generation options under Hugging Face's names.
        """
        request = pb.GenerateRequest(**self._common(long_input, options), **requests.source(source))
        return results.generated(self._call(self._generation.Generate, request))

    def stream_generate(self, source: str | Sequence[int], *, long_input: str = "error", **options: Any) -> Stream:
        """Streams the best sequence for a source.

        The stream's `result` is a Generated. Arguments: as for `generate`.
        """
        request = pb.StreamGenerateRequest(**self._common(long_input, options), **requests.source(source))
        return Stream(self._generation.StreamGenerate(request, **self._keywords), read_generated)

    def score(self, source: str | Sequence[int], target: str | Sequence[int], *, long_input: str = "error") -> Scored:
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
        return results.scored(self._call(self._generation.Score, request))

    def classify(
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
        return results.labels(self._call(self._classification.ClassifyZeroShot, request))

    def models(self) -> list[pb.Model]:
        """The models that the server has, each with its tasks and limits."""
        return list(self._call(self._models.ListModels, pb.ListModelsRequest()).models)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Waits until a server's health service says SERVING. Raises BartError if that takes over `timeout` seconds."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout)
        except grpc.FutureTimeoutError:
            raise BartError(grpc.StatusCode.UNAVAILABLE, f"no server is ready after {timeout:g} s") from None

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _common(self, long_input: str, options: dict[str, Any]) -> dict[str, Any]:
        return common(self._model, long_input, options)

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, **self._keywords)
        except grpc.RpcError as error:
            raise errors.from_call(error) from None


def common(model: str, long_input: str, options: dict[str, Any]) -> dict[str, Any]:
    """The fields that all requests for summaries and generated sequences have."""
    return {
        "model": model,
        "options": requests.options(options),
        "long_input": requests.long_input(long_input),
    }


def read_summary(message: pb.StreamSummarizeResponse) -> tuple[str, Summary | None]:
    """The part of the text that a stream's message brings, and None; for the last message, "" and the summary."""
    if message.WhichOneof("event") == "summary":
        return "", results.summary(message.summary)
    return message.delta.text, None


def read_generated(message: pb.StreamGenerateResponse) -> tuple[str, Generated | None]:
    """The part of the text that a stream's message brings, and None; for the last message, "" and the result."""
    if message.WhichOneof("event") == "result":
        return "", results.generated(message.result)
    return message.delta.text, None


def read_batch(message: pb.BatchSummarizeResponse) -> list[Summary | BartError]:
    """A summary or an error for each text of a batch."""
    answers: list[Summary | BartError] = []
    for item in message.items:
        if item.WhichOneof("result") == "summary":
            answers.append(results.summary(item.summary))
        else:
            # The protocol's ItemStatus has the same fields as google.rpc.Status, so its bytes are those of a Status.
            answers.append(errors.from_status(status_pb2.Status.FromString(item.error.SerializeToString())))
    return answers
