"""The wire contract's messages to and from what the server works with."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bart_inference.tokenization import Window
from bart_proto.v1 import bart_pb2 as pb
from google.protobuf import duration_pb2

from bart_server.scheduling.contract import Finish, Hypothesis
from bart_server.scheduling.errors import InvalidArgument
from bart_server.services.models import Served

EARLY_STOPPING: dict[int, bool | str] = {
    pb.EARLY_STOPPING_HEURISTIC: False,
    pb.EARLY_STOPPING_FIRST: True,
    pb.EARLY_STOPPING_NEVER: "never",
}


def one_token(ids: pb.TokenIds) -> int | None:
    if len(ids.ids) > 1:
        raise InvalidArgument("options.forced_bos_token_id", f"{len(ids.ids)} ids, at most 1 can be forced")
    return ids.ids[0] if ids.ids else None


def tokens(ids: pb.TokenIds) -> list[int] | None:
    return list(ids.ids) or None


def sequences(field: str) -> Callable[[pb.TokenSequences], list[list[int]] | None]:
    def convert(value: pb.TokenSequences) -> list[list[int]] | None:
        for index, sequence in enumerate(value.sequences):
            if not sequence.ids:
                raise InvalidArgument(f"options.{field}[{index}]", "0 tokens, at least 1 is needed")
        return [list(sequence.ids) for sequence in value.sequences] or None

    return convert


def biases(value: pb.SequenceBiases) -> dict[tuple[int, ...], float] | None:
    for index, bias in enumerate(value.biases):
        if not bias.ids:
            raise InvalidArgument(f"options.sequence_bias[{index}]", "0 tokens, at least 1 is needed")
        finite(f"sequence_bias[{index}]", bias.bias)
    return {tuple(bias.ids): bias.bias for bias in value.biases} or None


def decay(value: pb.ExponentialDecay) -> tuple[int, float] | None:
    finite("exponential_decay_length_penalty", value.factor)
    return (value.start, value.factor)


CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "early_stopping": EARLY_STOPPING.get,
    "forced_bos_token_id": one_token,
    "forced_eos_token_id": tokens,
    "eos_token_id": tokens,
    "suppress_tokens": tokens,
    "begin_suppress_tokens": tokens,
    "bad_words_ids": sequences("bad_words_ids"),
    "sequence_bias": biases,
    "exponential_decay_length_penalty": decay,
}


def options(message: pb.GenerationOptions) -> dict[str, Any]:
    """Hugging Face's names and values of the options that are set; None for one that is switched off."""
    found: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        name = descriptor.name
        if name == "early_stopping" and value not in EARLY_STOPPING:
            raise InvalidArgument("options.early_stopping", f"{value} is no value of bart.v1.EarlyStopping")
        if isinstance(value, float):
            finite(name, value)
        found[name] = CONVERSIONS[name](value) if name in CONVERSIONS else value
    return found


def finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise InvalidArgument(f"options.{name}", f"{value} is not finite")


def sequence(served: Served, hypothesis: Hypothesis) -> pb.Sequence:
    return pb.Sequence(
        text=served.text.decode(hypothesis.tokens) if served.text else "",
        token_ids=hypothesis.tokens,
        score=hypothesis.score,
        finish_reason=pb.FINISH_REASON_STOP if hypothesis.stopped else pb.FINISH_REASON_LENGTH,
    )


def summary(served: Served, windows: Sequence[Window], finishes: Sequence[Finish]) -> pb.SummarizeResponse:
    """One finish for each window."""
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
    """One finish, or one for each sample."""
    return pb.GenerateResponse(
        sequences=[sequence(served, hypothesis) for finish in finishes for hypothesis in finish.hypotheses],
        usage=usage(served, [window], finishes),
    )


def usage(served: Served, windows: Sequence[Window], finishes: Sequence[Finish]) -> pb.Usage:
    return pb.Usage(
        input_tokens=sum(len(window.ids) for window in windows),
        output_tokens=sum(len(hypothesis.tokens) for finish in finishes for hypothesis in finish.hypotheses),
        truncated=any(window.truncated for window in windows),
        queue_time=duration(max(finish.queued for finish in finishes)),
        compute_time=duration(max(finish.computed for finish in finishes)),
        model=served.name,
        model_revision=served.engine.description.revision,
    )


def usage_facts(usage: pb.Usage) -> dict[str, Any]:
    """What the log and the trace say about an answer."""
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "queue_seconds": usage.queue_time.ToNanoseconds() / 1e9,
        "compute_seconds": usage.compute_time.ToNanoseconds() / 1e9,
    }


def duration(seconds: float) -> duration_pb2.Duration:
    message = duration_pb2.Duration()
    message.FromNanoseconds(max(0, round(seconds * 1e9)))
    return message
