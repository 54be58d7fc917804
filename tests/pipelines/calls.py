"""Lists calls of pipelines for which golden/ has the results of transformers 4.57.6.

A Call holds the pipeline's task, checkpoint and keyword arguments, and the arguments of the call. Our pipeline must
give transformers' result. If it differs on purpose, `reason` says what ours does. Then `theirs` has the keyword
arguments with which transformers 4.57.6 gives our result, or `error` the error that ours raises.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

SHORT = "Tests compare every number."
A = "The library compiles arrays into fast programs, and the programs run on any device."
B = "A small tool that shows the weather in the terminal; it needs a network connection."
C = "This package contains the documentation of the server, and a client that prints its answers."
LONG = " ".join([A, B, C] * 6)  # more tokens than the checkpoints' 320 positions
MASKED = "The <mask> compiles arrays into programs."
TWO_MASKS = "The <mask> compiles <mask> into programs."
CONTEXT = (
    "The server was written in 2019 by a small team in Paris. It answers requests over a network, keeps a queue, "
    "and stops when the queue is empty. A client library for Python is included."
)
LONG_CONTEXT = " ".join([CONTEXT, A, B, C] * 4)
QUESTION = "Who wrote the server?"
LABELS = ["science", "network", "games"]


@dataclasses.dataclass(frozen=True)
class Stream:
    """Inputs that the pipeline gets from a generator. Its repr is the same in every run, which a generator's is not."""

    items: tuple[Any, ...]

    def __iter__(self) -> Iterator[Any]:
        yield from self.items


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Inputs that the pipeline gets in a class with __len__ and __getitem__, like a torch Dataset."""

    items: tuple[Any, ...]


class Rows:
    """A class with __len__ and __getitem__ that is neither a Sequence nor a torch Dataset."""

    def __init__(self, items: tuple[Any, ...]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def argument(value: Any, rows: type[Rows] = Rows) -> Any:
    """The object that a pipeline gets for a value of a Call; a Dataset becomes an object of class `rows`."""
    if isinstance(value, Stream):
        return (item for item in value.items)
    return rows(value.items) if isinstance(value, Dataset) else value


@dataclasses.dataclass
class Call:
    task: str
    checkpoint: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    init: dict[str, Any] = dataclasses.field(default_factory=dict)
    theirs: dict[str, dict[str, Any]] | None = None  # "kwargs" and "init" that transformers gets instead
    error: str | None = None  # name of the error that ours raises on purpose, where transformers gives a result
    rare: bool = False  # marked slow: compiling programs that no other call needs takes seconds
    reason: str = ""  # what ours does where it differs on purpose

    @property
    def name(self) -> str:
        """The key of the call's result in the golden file, which must be the same in every environment."""
        init = "".join(f", {name}={value!r}" for name, value in self.init.items())
        call = [repr(a) for a in self.args] + [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"pipeline({self.task!r}, {self.checkpoint}{init})({', '.join(call)})"


CALLS: list[Call] = []


def call(task: str, checkpoint: str, *args: Any, init: dict[str, Any] | None = None, **kwargs: Any) -> Call:
    """Adds pipeline(task, checkpoint, **init)(*args, **kwargs) to CALLS."""
    CALLS.append(Call(task, checkpoint, args, kwargs, init or {}))
    return CALLS[-1]


def rare(*calls: Call) -> None:
    """Marks calls as slow."""
    for each in calls:
        each.rare = True


def differing(
    reason: str, call: Call, theirs: dict[str, dict[str, Any]] | None = None, error: str | None = None
) -> None:
    """Marks a call for which ours differs from transformers on purpose."""
    call.reason, call.theirs, call.error = reason, theirs, error


# ── Generating ────────────────────────────────────────────────────────────────────────────────────────────────────────

for text in (A, B, C):
    call("summarization", "cnn", text)
rare(call("summarization", "cnn", SHORT))
rare(call("summarization", "cnn", [A, B, C, SHORT, B]))
for inputs in ([A, B], [A], [A, B, C], [], [[A], [B]], [[A, B], [C]], [A, [B]], [np.str_(A)]):
    call("summarization", "cnn", inputs)
call("summarization", "cnn", np.str_(A))
call("summarization", "cnn", Stream((A, B, C)))
call("summarization", "cnn", Dataset((A, B)))
call("summarization", "cnn", Stream(([A], B)))
for inputs in ((A, B), None, 7, 1.5, {"text": A}, [7], [None], [A, 3], [(A,)], [{"text": A}], [[7]]):
    call("summarization", "cnn", inputs)
call("summarization", "cnn", A, B)
call("summarization", "cnn", inputs=A)
call("summarization", "cnn", documents=A)
call("summarization", "cnn", [A, B, C], batch_size=2)
call("summarization", "cnn", [A, B, C], batch_size=2, return_tensors=True)
call("summarization", "cnn", [A, B], return_tensors=True)
call("summarization", "cnn", A, return_tensors=True)
call("summarization", "cnn", A, return_tensors=False)
call("summarization", "cnn", A, return_text=True)
call("summarization", "cnn", A, return_text=False)
call("summarization", "cnn", A, return_tensors=True, return_text=True)
call("summarization", "cnn", A, return_tensors=True, num_return_sequences=2)
call("summarization", "cnn", A, num_return_sequences=2)
call("summarization", "cnn", [A, B], num_return_sequences=2)
call("summarization", "cnn", [A], num_return_sequences=3, num_beams=4)
call("summarization", "cnn", Stream((A, B)), num_return_sequences=2)
call("summarization", "cnn", A, num_return_sequences=5)
call("summarization", "cnn", A, num_return_sequences=2, num_beams=1)
call("summarization", "cnn", A, max_length=12, min_length=4)
call("summarization", "cnn", A, max_length=12, min_length=4, do_sample=False)
call("summarization", "cnn", [A, B], max_length=30, min_length=20, do_sample=False)
call("summarization", "cnn", A, max_length=16)
call("summarization", "cnn", A, min_length=2)
call("summarization", "cnn", A, min_length=40, max_length=20)
call("summarization", "cnn", A, max_new_tokens=10)
call("summarization", "cnn", A, max_new_tokens=4)
call("summarization", "cnn", A, max_new_tokens=10, min_new_tokens=8)
call("summarization", "cnn", A, max_new_tokens=10, max_length=20)
call("summarization", "cnn", A, max_length=1)
call("summarization", "cnn", A, max_new_tokens=0)
call("summarization", "cnn", A, num_beams=1)
call("summarization", "cnn", A, num_beams=2, length_penalty=0.5)
call("summarization", "cnn", A, early_stopping=False)
call("summarization", "cnn", A, early_stopping="never", max_length=20)
call("summarization", "cnn", A, no_repeat_ngram_size=2)
call("summarization", "cnn", A, no_repeat_ngram_size=0)
call("summarization", "cnn", A, repetition_penalty=1.5)
call("summarization", "cnn", A, encoder_no_repeat_ngram_size=2)
call("summarization", "cnn", A, bad_words_ids=[[300], [301, 302]])
call("summarization", "cnn", A, forced_bos_token_id=5)
call("summarization", "cnn", A, use_cache=False)
call("summarization", "cnn", A, num_workers=0)
call("summarization", "cnn", A, foo=1)
call("summarization", "cnn", A, generate_kwargs={"max_length": 10})
call("summarization", "cnn", A, foo=None)
call("summarization", "cnn", A, max_lenght=10)
for kwargs in (
    {"logits_processor": None}, {"return_dict_in_generate": False}, {"do_sample": 0}, {"max_length": "20"},
    {"num_beams": 2.5}, {"stop_sequence": 5}, {"batch_size": 0},
):  # fmt: skip
    call("summarization", "cnn", A, **kwargs)
call("summarization", "cnn", [A, B], batch_size="2")
call("summarization", "cnn", A, truncation=True)
call("summarization", "cnn", LONG, truncation=True)
rare(call("summarization", "cnn", [LONG, A], truncation=True))
call("summarization", "cnn", LONG, truncation="only_first")
call("summarization", "cnn", LONG, truncation="longest_first")
call("summarization", "cnn", A, truncation=False)
call("summarization", "cnn", A, truncation="do_not_truncate")
call("summarization", "cnn", A, truncation="sideways")
call("summarization", "cnn", A, clean_up_tokenization_spaces=True)
call("summarization", "cnn", A, clean_up_tokenization_spaces=False)
call("summarization", "cnn", A, stop_sequence=".")
call("summarization", "cnn", C, stop_sequence="ace")
call("summarization", "cnn", A, stop_sequence=" the server")
call("summarization", "cnn", A, stop_sequence="")
call("summarization", "cnn", A, generation_config={"max_new_tokens": 9})
call("summarization", "cnn", A, generation_config={"num_beams": 2, "max_length": 24})
call("summarization", "cnn", A, generation_config={"max_new_tokens": 20}, num_beams=1)
call("summarization", "cnn", A, generation_config={"max_length": 15}, max_length=10)
call("summarization", "cnn", A, generation_config={"num_beams": 2, "num_return_sequences": 2})
call("summarization", "cnn", A, init={"batch_size": 2})
call("summarization", "cnn", [A, B, C], init={"batch_size": 2, "return_tensors": True})
call("summarization", "cnn", LONG, init={"truncation": True})
call("summarization", "cnn", A, init={"length_penalty": 0.1})
call("summarization", "cnn", A, init={"repetition_penalty": 1.3})
call("summarization", "cnn", A, init={"max_new_tokens": 7})
call("summarization", "cnn", A, init={"foo": 1})
call("summarization", "cnn", A, init={"num_return_sequences": 2})
call("summarization", "cnn", A, init={"framework": "pt"})
call("summarization", "cnn", A, init={"framework": "tf"})
call("summarization", "cnn", A, init={"device": -1})
call("summarization", "cnn", A, init={"device": "cpu"})
call("summarization", "cnn", A, init={"dtype": "float32"})
call("summarization", "cnn", A, init={"torch_dtype": "float32"})
call("summarization", "cnn", A, init={"dtype": "auto", "use_fast": True, "trust_remote_code": False})
call("summarization", "cnn", A, init={"model_kwargs": {"torch_dtype": "float32"}})
call("text2text-generation", "cnn", A)
call("text2text-generation", "cnn", [A, B])
call("text2text-generation", "cnn", [[A], [B]], max_length=25)
call("text2text-generation", "cnn", A, return_tensors=True)
call("translation", "cnn", A)
call("translation_en_to_fr", "cnn", [A, B], max_length=25)
call("translation_en_to_fr", "cnn", A, return_tensors=True)
call("translation_en_to_fr", "cnn", A, src_lang="en", tgt_lang="fr")
call("summarization", "base", A, max_new_tokens=12)
for task in ("summarization", "text2text-generation"):
    call(task, "base", [A, B], max_new_tokens=20, min_length=3, num_beams=4)
call("translation_en_to_de", "base", A, max_new_tokens=12, num_beams=4)
call("text2text-generation", "base", A, num_beams=1, max_new_tokens=30)
rare(call("text2text-generation", "base", SHORT, num_beams=4))  # no option sets a length: 256 new tokens
rare(call("text2text-generation", "bare", SHORT))  # no option sets a length or beams: 256 new tokens, 4 beams
call("translation_en_to_fr", "base", A, max_new_tokens=9, num_beams=4)
call("translation", "base", A, max_new_tokens=9, num_beams=4)
call("summarization", "base", A, generation_config={"max_new_tokens": 19})
call("summarization", "base", A, generation_config={"max_length": 23})
call("summarization", "base", A, generation_config={"num_beams": 4})
call("summarization", "base", A, num_beams=1, no_repeat_ngram_size=0, max_new_tokens=21)
call("summarization", "base", A, max_new_tokens=10, min_length=9)
call("summarization", "base", A, clean_up_tokenization_spaces=True, max_new_tokens=12)
call("text2text-generation", "base", A, init={"max_length": 17, "num_beams": 4})
rare(call("text2text-generation", "base", A, init={"max_new_tokens": 23, "num_beams": 3}))
call("text2text-generation", "base", A, init={"max_new_tokens": 23, "num_beams": 3}, num_beams=1)
call("text2text-generation", "base", A, init={"max_new_tokens": 13}, max_length=9, num_beams=4)
rare(call("summarization", "xsum", A, num_beams=6))
rare(call("summarization", "xsum", A, num_beams=6, max_length=18))
call("summarization", "xsum", A, num_beams=2)
call("summarization", "xsum", A, generation_config={"max_new_tokens": 19})
call("summarization", "xsum", A, generation_config={"num_beams": 2, "max_new_tokens": 19})
call("summarization", "xsum", A, generation_config={"num_beams": 2})
call("summarization", "bare", B, init={"max_length": 25, "num_beams": 2})
call("summarization", "bare", B, init={"num_beams": 1, "max_new_tokens": 25})
call("summarization", "bare", B, max_new_tokens=15, temperature=0.5)
call("text2text-generation", "added", "Is <sep> bioinformatics a <topic> for JAX ?", max_length=14, num_beams=2)
rare(call("text2text-generation", "added", ["<sep>JAX<sep>", "bioinformatics"], max_length=14, num_beams=2))
rare(call("text2text-generation", "added", "JAX JAX", return_tensors=True, max_length=14, num_beams=2))
rare(call("summarization", "added", A, max_new_tokens=11, num_beams=2))

LENGTHS = (
    "max_length and min_length come from the call, else from the constructor, else from task_specific_params; "
    "transformers 4.57.6 prefers task_specific_params to the constructor, and its default, 256 new tokens, to these"
)
for kwargs in (
    {"max_length": 8, "min_length": 0, "num_beams": 4}, {"max_length": 30, "min_length": 20, "num_beams": 4},
    {"max_length": 25, "num_beams": 4},
):  # fmt: skip
    instead = {**{n: v for n, v in kwargs.items() if n != "max_length"}, "max_new_tokens": kwargs["max_length"] - 1}
    for task in ("summarization", "text2text-generation", "translation_en_to_de"):
        differing(LENGTHS, call(task, "base", A, **kwargs), {"kwargs": instead})
differing(LENGTHS, call("summarization", "base", [A, B], max_length=20, min_length=2), {
    "kwargs": {"max_new_tokens": 19, "min_length": 2}
})  # fmt: skip
for text in (A, [A, B], Stream((A, B))):
    differing(LENGTHS, call("summarization", "base", text), {"kwargs": {"max_new_tokens": 17}})
for task in ("translation_en_to_de", "translation"):
    differing(LENGTHS, call(task, "base", A), {"kwargs": {"max_new_tokens": 19, "num_beams": 1}})
differing(
    LENGTHS, call("summarization", "base", A, min_length=10), {"kwargs": {"min_length": 10, "max_new_tokens": 17}}
)
differing(LENGTHS, call("text2text-generation", "bare", A, max_length=12), {"kwargs": {"max_new_tokens": 11}})
for checkpoint in ("cnn", "base"):
    for init in ({"max_length": 10, "min_length": 0}, {"max_length": 14}, {"min_length": 2}):
        length = init.get("max_length", {"cnn": 24, "base": 18}[checkpoint])
        instead = {"max_new_tokens": length - 1} | {n: v for n, v in init.items() if n == "min_length"}
        differing(LENGTHS, call("summarization", checkpoint, A, init=init), {"init": {}, "kwargs": instead})
differing(LENGTHS, call("summarization", "base", A, init={"max_length": 14}, max_length=9), {
    "init": {}, "kwargs": {"max_new_tokens": 8}
})  # fmt: skip

STATED = (
    "an option that the constructor, task_specific_params or generation_config.json sets is used; transformers 4.57.6 "
    "takes a value that equals a default for an option that is not set"
)
differing(STATED, call("text2text-generation", "base", B, max_new_tokens=20), {
    "kwargs": {"max_new_tokens": 20, "num_beams": 2}
})  # fmt: skip
differing(STATED, call("translation_en_to_de", "base", A, max_new_tokens=20), {
    "kwargs": {"max_new_tokens": 20, "num_beams": 1}
})  # fmt: skip
differing(STATED, call("summarization", "xsum", A), {"kwargs": {"num_beams": 6}})
differing(STATED, call("text2text-generation", "xsum", [A, B]), {"kwargs": {"num_beams": 6}})
differing(
    STATED, call("text2text-generation", "cnn", A, init={"num_beams": 1}), {"init": {}, "kwargs": {"num_beams": 1}}
)
differing(STATED, call("text2text-generation", "cnn", A, init={"no_repeat_ngram_size": 0}), {
    "init": {}, "kwargs": {"no_repeat_ngram_size": 0}
})  # fmt: skip
differing(STATED, call("text2text-generation", "added", A), {"kwargs": {"num_beams": 2}})
differing(STATED, call("translation", "added", A), {"kwargs": {"num_beams": 2}})

EMPTY = "an empty text is a ValueError; transformers 4.57.6 generates some text"
for inputs in ("", "  \n", [A, ""], ["", A], Stream((A, " "))):
    differing(EMPTY, call("summarization", "cnn", inputs), error="ValueError")
differing(EMPTY, call("text2text-generation", "base", ""), error="ValueError")
differing(EMPTY, call("translation_en_to_fr", "cnn", [[""]]), error="ValueError")
TOO_LONG = "a text with too many tokens is an error that is both a ValueError and an IndexError"
for inputs in (LONG, [A, LONG]):
    differing(TOO_LONG, call("summarization", "cnn", inputs), error="ValueError")
    differing(TOO_LONG, call("summarization", "cnn", inputs, num_beams=1), error="IndexError")

rare(*(each for each in CALLS if each.checkpoint in ("xsum", "added") and each.reason == STATED))

# ── Classification ────────────────────────────────────────────────────────────────────────────────────────────────────

PAIR = {"text": A, "text_pair": B}
for inputs in (
    A, [A], [A, B], [A, B, C], [], "", [""], np.str_(A), PAIR, [PAIR], [PAIR, PAIR], {"text": A}, [[A, B]], [[[A, B]]],
    [[A]], Stream((A, B)), Dataset((A, B)), Stream((PAIR, A)), None, 7, (A, B), [None], LONG, [A, LONG],
):  # fmt: skip
    call("text-classification", "sentiment", inputs)
for task, checkpoint in (
    ("sentiment-analysis", "sentiment"), ("text-classification", "topics"), ("text-classification", "rating"),
    ("text-classification", "mnli"),
):  # fmt: skip
    call(task, checkpoint, A)
    call(task, checkpoint, [B, A], top_k=None)
for top_k in (1, 2, 3, 10, None, 0, "all"):
    call("text-classification", "topics", A, top_k=top_k)
    call("text-classification", "topics", [A, B], top_k=top_k)
for init in (
    {"top_k": None}, {"top_k": 1}, {"top_k": 2}, {"return_all_scores": True}, {"return_all_scores": False},
    {"function_to_apply": "none"}, {"truncation": True}, {"batch_size": 2}, {"max_length": 8, "truncation": True},
):  # fmt: skip
    call("text-classification", "topics", A, init=init)
    call("text-classification", "topics", [A, B], init=init)
for function in ("softmax", "sigmoid", "none", "SoftMax", "tanh", "default", 3):
    call("text-classification", "topics", A, function_to_apply=function)
    call("text-classification", "mnli", A, function_to_apply=function, top_k=None)
for flag in (True, False):
    call("text-classification", "mnli", A, return_all_scores=flag)
    call("text-classification", "mnli", [A, B], return_all_scores=flag)
call("text-classification", "mnli", A, return_all_scores=True, top_k=2)
call("text-classification", "sentiment", LONG, truncation=True)
call("text-classification", "sentiment", A, truncation=True, max_length=6)
call("text-classification", "sentiment", A, truncation=True, max_length=6, padding=True)
call("text-classification", "sentiment", A, padding="max_length", truncation=True, max_length=40)
call("text-classification", "sentiment", PAIR, truncation="only_second", max_length=24)
call("text-classification", "sentiment", PAIR, truncation=True, max_length=30)
call("text-classification", "sentiment", A, add_special_tokens=True)
call("text-classification", "sentiment", A, foo=1)
call("text-classification", "sentiment", A, B)
call("text-classification", "sentiment", inputs=A)
call("text-classification", "sentiment", [A, B, C], batch_size=2)
call("text-classification", "sentiment", [A, B], batch_size=2, top_k=2, truncation=True)
call("text-classification", "sentiment", text=A)
call("text-classification", "sentiment")
call("text-classification", "sentiment", A, init={"foo": 1})
for kwargs in (
    {"max_length": 5}, {"max_length": 5, "padding": "longest"}, {"return_token_type_ids": False, "verbose": False},
    {"padding_side": "right"}, {"add_special_tokens": False}, {"padding": "sideways"},
):  # fmt: skip
    call("text-classification", "sentiment", A, **kwargs)
call("text-classification", "sentiment", {})
call("text-classification", "sentiment", {"text_pair": A})
differing(
    "a dict with lists of texts is a ValueError; transformers 4.57.6 answers the first pair only",
    call("text-classification", "sentiment", {"text": [A, B], "text_pair": [B, A]}),
    error="ValueError",
)
differing(
    "texts and pairs of texts may be in one batch, which is an error in transformers 4.57.6",
    call("text-classification", "sentiment", Stream((A, PAIR, C)), batch_size=2),
    {"kwargs": {}},
)

for labels in (
    LABELS,
    "science, network,games",
    "science",
    ["science"],
    "a, b,, c",
    [],
    "",
    ("x", "y"),
    ["one", "one"],
):
    call("zero-shot-classification", "mnli", A, labels)
    call("zero-shot-classification", "mnli", A, candidate_labels=labels)
for kwargs in (
    {"multi_label": True}, {"multi_label": False}, {"hypothesis_template": "It is about {}."}, {"multi_class": True},
    {"hypothesis_template": "no place"}, {"hypothesis_template": "{} and {}"}, {"hypothesis_template": "{0}!"},
    {"hypothesis_template": ""}, {"batch_size": 2}, {"foo": 1}, {"truncation": False},
    {"hypothesis_template": "About {}.", "multi_label": True},
):  # fmt: skip
    call("zero-shot-classification", "mnli", A, LABELS, **kwargs)
for inputs in ([A], [A, B], [], "", [""], Stream((A, B)), Dataset((A, B)), None, 7, [A, ""], LONG, [[A, B]], (A, B)):
    call("zero-shot-classification", "mnli", inputs, candidate_labels=LABELS)
call("zero-shot-classification", "mnli", [A, B, C], LABELS, multi_label=True, batch_size=3)
call("zero-shot-classification", "mnli", A)
call("zero-shot-classification", "mnli", A, LABELS, "About {}.")
call("zero-shot-classification", "mnli", A, LABELS, candidate_labels=LABELS)
call("zero-shot-classification", "mnli", sequences=A, candidate_labels=LABELS)
call("zero-shot-classification", "mnli", A, init={"candidate_labels": LABELS})
call("zero-shot-classification", "mnli", A, init={"candidate_labels": "a,b", "multi_label": True})
call("zero-shot-classification", "mnli", A, LABELS, init={"hypothesis_template": "On {}."})
call("zero-shot-classification", "sentiment", A, LABELS)
call("zero-shot-classification", "sentiment", A, LABELS, multi_label=True)
call("zero-shot-classification", "mnli", A, [1, 2])
call("zero-shot-classification", "mnli", A, np.array(["a", "b"]))
call("zero-shot-classification", "mnli", A, LABELS, batch_size=0)

# ── Masks, spans, features ────────────────────────────────────────────────────────────────────────────────────────────

for inputs in (
    MASKED, [MASKED], [MASKED, TWO_MASKS], TWO_MASKS, [TWO_MASKS], [MASKED, MASKED], [], A, [MASKED, A], "", None, 7,
    Stream((MASKED, TWO_MASKS)), Dataset((MASKED, MASKED)), np.str_(MASKED), "<mask>", "x<mask>y", (MASKED,),
    MASKED + LONG,
):  # fmt: skip
    call("fill-mask", "base", inputs)
for top_k in (1, 2, 10, 0, None, 5000):
    call("fill-mask", "base", MASKED, top_k=top_k)
for targets in (
    " library", "library", ["Ġlibrary", "Ġserver"], ["Ġlibrary", "Ġlibrary"], "Ġlibrary", [], "", ["", "Ġserver"],
    ["<mask>"], [" server", "zzz", "the"],
):  # fmt: skip
    call("fill-mask", "base", MASKED, targets=targets)
call("fill-mask", "base", TWO_MASKS, targets=["Ġlibrary", "Ġserver"], top_k=1)
call("fill-mask", "base", [MASKED, TWO_MASKS], targets=["Ġlibrary", "Ġserver"])
call("fill-mask", "base", TWO_MASKS, top_k=2)
call("fill-mask", "base", MASKED + LONG, tokenizer_kwargs={"truncation": True})
call("fill-mask", "base", MASKED, truncation=True)
call("fill-mask", "base", MASKED, foo=1)
call("fill-mask", "base", [MASKED, MASKED, TWO_MASKS], batch_size=2)
call("fill-mask", "base", MASKED, init={"top_k": 2})
call("fill-mask", "base", MASKED, init={"targets": ["Ġserver", "Ġlibrary"]})
call("fill-mask", "base", MASKED, init={"foo": 1})
for inputs in ([[MASKED, MASKED]], (MASKED, MASKED), [[MASKED, TWO_MASKS]], [[]]):
    call("fill-mask", "base", inputs)
call("fill-mask", "base", MASKED, top_k=-1)
call("fill-mask", "base", MASKED, targets=[300])
call("fill-mask", "base", MASKED, batch_size=0)
call("fill-mask", "base", [MASKED], batch_size=0)
call("fill-mask", "base", inputs=MASKED)
call("fill-mask", "base", MASKED, MASKED)
call("fill-mask", "cnn", MASKED)
call("fill-mask", "added", "Is <mask> a <topic> for JAX?")
call("fill-mask", "added", "Is <mask> a <topic> for JAX?", targets=["JAX", "<sep>"])

EXAMPLE = {"question": QUESTION, "context": CONTEXT}
call("question-answering", "squad", question=QUESTION, context=CONTEXT)
call("question-answering", "squad", QUESTION, CONTEXT)
for inputs in (
    EXAMPLE, [EXAMPLE], [EXAMPLE, {"question": "Where?", "context": A}], Stream((EXAMPLE, EXAMPLE)),
    {"question": QUESTION}, {"question": "", "context": CONTEXT}, {"question": QUESTION, "context": ""}, QUESTION, [],
    {"question": None, "context": CONTEXT}, [QUESTION, CONTEXT], None,
    {"question": QUESTION, "context": CONTEXT, "x": 1}, Dataset((EXAMPLE, EXAMPLE)),
    {"question": " ", "context": CONTEXT}, {"question": [QUESTION, QUESTION], "context": [A, B]},
):  # fmt: skip
    call("question-answering", "squad", inputs)
for kwargs in (
    {"question": [QUESTION, "Where?"], "context": CONTEXT}, {"question": [QUESTION, "Where?"], "context": [CONTEXT, A]},
    {"question": [QUESTION], "context": CONTEXT}, {"question": [QUESTION, "Where?"], "context": [CONTEXT]},
    {"question": QUESTION, "context": [CONTEXT]}, {"question": QUESTION}, {"context": CONTEXT}, {"data": EXAMPLE},
    {"X": [EXAMPLE, EXAMPLE]}, {"question": [], "context": []}, {"question": QUESTION, "context": 3},
):  # fmt: skip
    call("question-answering", "squad", **kwargs)
for kwargs in (
    {"top_k": 1}, {"top_k": 3}, {"topk": 2}, {"top_k": 50}, {"top_k": 0}, {"top_k": -1}, {"max_answer_len": 3},
    {"max_answer_len": 1, "top_k": 3}, {"max_answer_len": 0}, {"handle_impossible_answer": True, "top_k": 3},
    {"handle_impossible_answer": True}, {"align_to_words": False, "top_k": 3}, {"align_to_words": False}, {"foo": 1},
    {"max_question_len": 3}, {"padding": "max_length"}, {"padding": True}, {"batch_size": 2},
    {"doc_stride": 16, "max_seq_len": 32, "top_k": 3}, {"max_seq_len": 40}, {"doc_stride": 60, "max_seq_len": 40},
    {"doc_stride": 39, "max_seq_len": 40},
    {"max_seq_len": 48, "handle_impossible_answer": True, "top_k": 4},
    {"max_seq_len": 48, "doc_stride": 8, "align_to_words": False, "top_k": 4}, {"max_seq_len": 5},
    {"max_seq_len": 600},
):  # fmt: skip
    call("question-answering", "squad", question=QUESTION, context=CONTEXT, **kwargs)
call("question-answering", "squad", {"question": 5, "context": CONTEXT})
call("question-answering", "squad", question=QUESTION, context=CONTEXT, padding="sideways")
call("question-answering", "squad", question=QUESTION, context=LONG_CONTEXT)
call("question-answering", "squad", question=QUESTION, context=LONG_CONTEXT, top_k=3, handle_impossible_answer=True)
call("question-answering", "squad", question=QUESTION, context=LONG_CONTEXT, max_seq_len=600)
call(
    "question-answering",
    "squad",
    question=QUESTION,
    context="  The  server\twas\n\nwritten by Ana-María O'Neil.  ",
    top_k=4,
)
call("question-answering", "squad", question=QUESTION, context="日本語のサーバー。 Ünïcödé!", top_k=4)
call("question-answering", "squad", question=QUESTION, context="word", top_k=4)
call("question-answering", "squad", question=QUESTION, context="the The THE the", top_k=4)
call("question-answering", "squad", question=QUESTION, context=CONTEXT, init={"top_k": 2})
call(
    "question-answering",
    "squad",
    question=QUESTION,
    context=CONTEXT,
    init={"handle_impossible_answer": True, "top_k": 2},
)
call("question-answering", "squad", question=QUESTION, context=CONTEXT, init={"max_seq_len": 40, "doc_stride": 10})

for inputs in (SHORT, [SHORT], [SHORT, "Short."], [], "", Stream((SHORT, "x")), None, 7, [[SHORT]], LONG, np.str_("a")):
    call("feature-extraction", "base", inputs)
call("feature-extraction", "base", SHORT, return_tensors=True)
call("feature-extraction", "base", [SHORT, "x"], return_tensors=True)
call("feature-extraction", "base", A, truncation=True, tokenize_kwargs={"max_length": 6})
call("feature-extraction", "base", SHORT, truncation=True)
call("feature-extraction", "base", SHORT, truncation=True, tokenize_kwargs={"truncation": True})
call("feature-extraction", "base", SHORT, foo=1)
call("feature-extraction", "base", SHORT, "x")
call("feature-extraction", "base", inputs=SHORT)
call("feature-extraction", "base", [SHORT, "a b"], batch_size=2)
call("feature-extraction", "base", SHORT, batch_size=0)
call("feature-extraction", "base", SHORT, tokenize_kwargs={"max_length": 4})
call("feature-extraction", "base", [[]])
differing(
    "all texts of an inner list are answered; transformers 4.57.6 answers some of them",
    call("feature-extraction", "base", [[SHORT, SHORT], [SHORT, SHORT]], batch_size=2),
    {"kwargs": {}},
)
call("feature-extraction", "mnli", SHORT)
call("feature-extraction", "base", SHORT, init={"return_tensors": True})

# ── Constructors ──────────────────────────────────────────────────────────────────────────────────────────────────────

for task in ("summarise", "ner", "translation_en", "translation_en_de_fr", "", "question_answering"):
    call(task, "cnn", A)
call("summarization", "missing", A)
call("summarization", "cnn", A, init={"device": 0})
call("summarization", "cnn", A, init={"generation_config": {"max_length": 10}})
call("summarization", "cnn", A, init={"framework": "np"})

assert len({call.name for call in CALLS}) == len(CALLS), "a call is listed twice"
