"""The wire contract's messages to and from what the server works with."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from bart_proto.v1 import bart_pb2 as pb
from google.protobuf import duration_pb2

from bart_server.scheduling.contract import Hypothesis, Task
from bart_server.scheduling.errors import InvalidArgument

EARLY_STOPPING: dict[int, bool | str] = {
    pb.EARLY_STOPPING_HEURISTIC: False,
    pb.EARLY_STOPPING_FIRST: True,
    pb.EARLY_STOPPING_NEVER: "never",
}
TASKS = {Task.GENERATE: pb.TASK_GENERATION, Task.CLASSIFY: pb.TASK_CLASSIFICATION}


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


def finish_reason(hypothesis: Hypothesis) -> pb.FinishReason:
    return pb.FINISH_REASON_STOP if hypothesis.stopped else pb.FINISH_REASON_LENGTH


def duration(seconds: float) -> duration_pb2.Duration:
    found = duration_pb2.Duration()
    found.FromNanoseconds(max(0, round(seconds * 1e9)))
    return found
