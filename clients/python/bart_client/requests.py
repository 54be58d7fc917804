"""Makes the messages of the protocol bart.v1 from Python values."""

from collections.abc import Mapping, Sequence
from typing import Any

from bart_proto.v1 import bart_pb2 as pb

LONG_INPUT = {"error": pb.LONG_INPUT_ERROR, "truncate": pb.LONG_INPUT_TRUNCATE, "chunk": pb.LONG_INPUT_CHUNK}
EARLY_STOPPING: dict[Any, pb.EarlyStopping] = {
    False: pb.EARLY_STOPPING_HEURISTIC,
    True: pb.EARLY_STOPPING_FIRST,
    "never": pb.EARLY_STOPPING_NEVER,
}
# The value that is sent for None, which switches an option off. An absent field would mean the checkpoint's default.
OFF: dict[str, Any] = {
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "do_sample": False,
    "num_return_sequences": 1,
    "early_stopping": False,
    "length_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "renormalize_logits": False,
}


def options(values: Mapping[str, Any]) -> pb.GenerationOptions:
    """The message for options under Hugging Face's names.

    Raises TypeError for an unknown name, and ValueError for a value that does not fit into the option's field.
    """
    message = pb.GenerationOptions()
    for name, value in values.items():
        if name not in message.DESCRIPTOR.fields_by_name:
            raise TypeError(f"unknown option {name!r}; known: {', '.join(sorted(message.DESCRIPTOR.fields_by_name))}")
        try:
            set_option(message, name, OFF.get(name) if value is None else value)
        except (TypeError, ValueError, KeyError, AttributeError):
            raise ValueError(f"option {name} cannot be {value!r}") from None
    return message


def set_option(message: pb.GenerationOptions, name: str, value: Any) -> None:
    """Sets a field of the message. A list that is present but empty switches its option off."""
    field = getattr(message, name)
    if name == "early_stopping":
        message.early_stopping = EARLY_STOPPING[value]
    elif isinstance(field, pb.TokenIds):
        field.SetInParent()
        field.ids.extend([value] if isinstance(value, int) else value or ())
    elif isinstance(field, pb.TokenSequences):
        field.SetInParent()
        field.sequences.extend(pb.TokenIds(ids=ids) for ids in value or ())
    elif isinstance(field, pb.SequenceBiases):
        field.SetInParent()
        pairs = value.items() if isinstance(value, Mapping) else value or ()
        field.biases.extend(pb.SequenceBias(ids=ids, bias=bias) for ids, bias in pairs)
    elif isinstance(field, pb.ExponentialDecay):
        field.start, field.factor = value or (0, 1.0)
    else:
        setattr(message, name, value)


def long_input(name: str) -> pb.LongInput:
    """The protocol's value for "error", "truncate" or "chunk". Raises ValueError for another name."""
    if name not in LONG_INPUT:
        raise ValueError(f"long_input is {name!r}, it has to be one of {', '.join(LONG_INPUT)}")
    return LONG_INPUT[name]


def source(value: str | Sequence[int]) -> dict[str, Any]:
    """A request's source as the field that holds it: `text` for a string, `token_ids` for token ids."""
    if isinstance(value, str):
        return {"text": value}
    return {"token_ids": pb.TokenIds(ids=value)}


def target(value: str | Sequence[int]) -> dict[str, Any]:
    """A ScoreRequest's target as the field that holds it: `target_text` for a string, `labels` for token ids."""
    if isinstance(value, str):
        return {"target_text": value}
    return {"labels": pb.Labels(ids=value)}
