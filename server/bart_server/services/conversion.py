"""Converts messages of the protocol bart.v1 into Python values, and answers into messages."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

from bart_inference.generation.options import CAPACITIES, MAX_BIAS_LENGTH, MAX_BIASES
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


def forced_token(message: pb.TokenIds) -> int | None:
    """The only id of the list; None, which switches the option off, for an empty list."""
    if len(message.ids) > 1:
        raise InvalidArgument("options.forced_bos_token_id", f"{len(message.ids)} ids, at most 1 can be forced")
    return message.ids[0] if message.ids else None


def token_ids(option: str) -> Callable[[pb.TokenIds], list[int] | None]:
    """A function that converts a list of token ids; None, which switches the option off, for an empty list."""

    def convert(message: pb.TokenIds) -> list[int] | None:
        check_length(option, message.ids, CAPACITIES[option])
        return list(message.ids) or None

    return convert


def bad_words(message: pb.TokenSequences) -> list[list[int]] | None:
    check_length("bad_words_ids", message.sequences, MAX_BIASES)
    words = []
    for index, word in enumerate(message.sequences):
        check_not_empty(f"bad_words_ids[{index}]", word.ids)
        check_length(f"bad_words_ids[{index}]", word.ids, MAX_BIAS_LENGTH)
        words.append(list(word.ids))
    return words or None


def sequence_bias(message: pb.SequenceBiases) -> dict[tuple[int, ...], float] | None:
    check_length("sequence_bias", message.biases, MAX_BIASES)
    biases = {}
    for index, entry in enumerate(message.biases):
        check_not_empty(f"sequence_bias[{index}]", entry.ids)
        check_length(f"sequence_bias[{index}]", entry.ids, MAX_BIAS_LENGTH)
        check_finite(f"sequence_bias[{index}]", entry.bias)
        biases[tuple(entry.ids)] = entry.bias
    return biases or None


def exponential_decay(message: pb.ExponentialDecay) -> tuple[int, float] | None:
    check_finite("exponential_decay_length_penalty", message.factor)
    return (message.start, message.factor)


# How an option's field becomes its value; the fields of other options have the value itself.
CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "early_stopping": EARLY_STOPPING.get,
    "forced_bos_token_id": forced_token,
    "forced_eos_token_id": token_ids("forced_eos_token_id"),
    "eos_token_id": token_ids("eos_token_id"),
    "suppress_tokens": token_ids("suppress_tokens"),
    "begin_suppress_tokens": token_ids("begin_suppress_tokens"),
    "bad_words_ids": bad_words,
    "sequence_bias": sequence_bias,
    "exponential_decay_length_penalty": exponential_decay,
}


def options(message: pb.GenerationOptions) -> dict[str, Any]:
    """The options that are set, under Hugging Face's names and with its values; None for one that is switched off.

    Raises InvalidArgument.
    """
    converted: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        name = descriptor.name
        if name == "early_stopping" and value not in EARLY_STOPPING:
            raise InvalidArgument("options.early_stopping", f"{value} is no value of bart.v1.EarlyStopping")
        if isinstance(value, float):
            check_finite(name, value)
        converted[name] = CONVERSIONS[name](value) if name in CONVERSIONS else value
    return converted


def check_finite(option: str, value: float) -> None:
    if not math.isfinite(value):
        raise InvalidArgument(f"options.{option}", f"{value} is not finite")


def check_length(option: str, values: Sized, limit: int) -> None:
    if len(values) > limit:
        raise InvalidArgument(f"options.{option}", f"{len(values)} entries, at most {limit} are allowed")


def check_not_empty(option: str, ids: Sequence[int]) -> None:
    if not ids:
        raise InvalidArgument(f"options.{option}", "0 tokens, at least 1 is needed")


def sequence(served: Served, hypothesis: Hypothesis) -> pb.Sequence:
    return pb.Sequence(
        text=served.text.decode(hypothesis.tokens) if served.text else "",
        token_ids=hypothesis.tokens,
        score=hypothesis.score,
        finish_reason=pb.FINISH_REASON_STOP if hypothesis.stopped else pb.FINISH_REASON_LENGTH,
    )


def summary(served: Served, windows: Sequence[Window], finishes: Sequence[Finish]) -> pb.SummarizeResponse:
    """The response for a text. finishes: the answer for each of its windows."""
    summarized = []
    for window, finish in zip(windows, finishes, strict=True):
        best = sequence(served, finish.hypotheses[0])
        tokens = len(window.ids)
        summarized.append(pb.Window(begin=window.begin, end=window.end, input_tokens=tokens, summary=best))
    text = " ".join(window.summary.text for window in summarized)
    return pb.SummarizeResponse(text=text, windows=summarized, usage=usage(served, windows, finishes))


def generated(served: Served, window: Window, finishes: Sequence[Finish]) -> pb.GenerateResponse:
    """The response for one source. finishes: one answer, or one for each sample."""
    hypotheses = itertools.chain.from_iterable(finish.hypotheses for finish in finishes)
    sequences = [sequence(served, hypothesis) for hypothesis in hypotheses]
    return pb.GenerateResponse(sequences=sequences, usage=usage(served, [window], finishes))


def usage(served: Served, windows: Sequence[Window], finishes: Sequence[Finish]) -> pb.Usage:
    """The token counts and times of an answer. Requests run at the same time, so of their times the longest counts."""
    hypotheses = itertools.chain.from_iterable(finish.hypotheses for finish in finishes)
    return pb.Usage(
        input_tokens=sum(len(window.ids) for window in windows),
        output_tokens=sum(len(hypothesis.tokens) for hypothesis in hypotheses),
        truncated=any(window.truncated for window in windows),
        queue_time=duration(max(finish.queued for finish in finishes)),
        compute_time=duration(max(finish.computed for finish in finishes)),
        model=served.name,
        model_revision=served.engine.description.revision,
    )


def usage_facts(usage: pb.Usage) -> dict[str, Any]:
    """The token counts and times of an answer, for the log and the trace."""
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
