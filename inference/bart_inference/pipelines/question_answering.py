"""question-answering: where in a context the answer stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding

from bart_inference.pipelines.base import Pipeline, in_batches, is_lazy, logger
from bart_inference.tasks.question_answering import question_answering
from bart_inference.tokenization import pad

EXCLUDED = -10_000.0  # logit of a token that cannot be in the answer, as in transformers


class Example(NamedTuple):
    question: str
    context: str


class Window(NamedTuple):
    """As much of a context as the model reads at once, behind the question."""

    example: int  # whose
    encoding: Encoding
    in_context: np.ndarray  # (S,) bool: tokens that may be in the answer; the start token, too, which means "none"


class Span(NamedTuple):
    """Tokens of a window, both ends included."""

    start: int
    end: int
    score: float


class QuestionAnsweringPipeline(Pipeline):
    """For each question {"score", "start", "end", "answer"}; with top_k above 1 a list of them.

    Called as pipe(question=…, context=…), each a text or a list; also with a dict or a list of dicts. Keywords: top_k,
    doc_stride, max_seq_len, max_answer_len, handle_impossible_answer, align_to_words. A context longer than max_seq_len
    beside its question is read in windows that share doc_stride tokens.
    """

    def settings(
        self,
        padding: Any = None,
        topk: int | None = None,
        top_k: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
        **inputs: Any,
    ) -> dict[str, Any]:
        """padding and max_question_len have no effect, nor have names that are not known, as in transformers."""
        if topk is not None and top_k is None:
            logger.warning("topk is the former name of top_k")
            top_k = topk
        for name, value in (("top_k", top_k), ("max_answer_len", max_answer_len)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        given = {
            "top_k": top_k, "doc_stride": doc_stride, "max_answer_len": max_answer_len, "max_seq_len": max_seq_len,
            "handle_impossible_answer": handle_impossible_answer, "align_to_words": align_to_words,
        }  # fmt: skip
        return {name: value for name, value in given.items() if value is not None}

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        if args:
            logger.warning("give the question and the context by name: pipe(question=…, context=…)")
        inputs = find_inputs(args, keywords)
        if is_lazy(inputs):
            return self.call(inputs, **keywords)
        examples = [as_examples(item) for item in ([inputs] if isinstance(inputs, dict | Example) else inputs)]
        return self.call(examples[0] if len(examples) == 1 else examples, **keywords)

    @staticmethod
    def create_sample(question: Any, context: Any) -> Example | list[Example]:
        """An example, or several where both are lists, for a call with examples."""
        return as_examples({"question": question, "context": context})

    def answer(self, inputs: list[Any], settings: dict[str, Any]) -> list[Any]:
        examples = [
            item if isinstance(item, Example) else Example(item["question"], item["context"]) for item in inputs
        ]
        windows = [w for i, example in enumerate(examples) for w in self.windows(i, example, settings)]
        prepared = self.model.prepared

        def run(batch: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
            rows = [windows[i].encoding.ids for i in batch]
            spans = question_answering(prepared, *pad(rows, prepared.config.pad_token_id))
            lengths = [len(row) for row in rows]
            return [(spans.start_logits[i, :n], spans.end_logits[i, :n]) for i, n in enumerate(lengths)]

        logits = in_batches([len(window.encoding.ids) for window in windows], settings["batch_size"], run)
        read: list[list[tuple[Window, np.ndarray, np.ndarray]]] = [[] for _ in examples]
        for window, (start, end) in zip(windows, logits, strict=True):
            read[window.example].append((window, start, end))
        return [best_answers(example.context, its, settings) for example, its in zip(examples, read, strict=True)]

    def windows(self, i: int, example: Example, settings: dict[str, Any]) -> Iterator[Window]:
        longest = settings.get("max_seq_len", min(self.tokenizer.model_max_length, 384))
        stride = settings.get("doc_stride", min(longest // 2, 128))
        if stride > longest:
            raise ValueError(f"doc_stride ({stride}) is larger than max_seq_len ({longest})")
        encoding = self.tokenizer.encoding(*example, truncation="only_second", max_length=longest, stride=stride)
        for part in (encoding, *encoding.overflowing):
            self.check_length(part.ids, f"context {i} with its question", "give a smaller max_seq_len")
            in_context = np.array([sequence == 1 for sequence in part.sequence_ids])
            in_context |= np.array(part.ids) == self.tokenizer.cls_token_id
            yield Window(i, part, in_context)


def find_inputs(args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """The examples of a call in any of the forms that transformers takes, before each is checked."""
    if args:
        if len(args) == 2 and all(type(value) is str for value in args):
            return {"question": args[0], "context": args[1]}
        inputs = args[0] if len(args) == 1 else list(args)
    elif "X" in keywords or "data" in keywords:
        logger.warning("X and data are former names: pipe(question=…, context=…)")
        inputs = keywords["X"] if "X" in keywords else keywords["data"]
    elif "question" in keywords and "context" in keywords:
        return pair_up(keywords["question"], keywords["context"])
    else:
        raise ValueError(f"a question and a context are needed, got {sorted(keywords)}")
    if not isinstance(inputs, Iterable) and not is_lazy(inputs):
        raise ValueError(f"give pipe(question=…, context=…), or a dict with both, got {inputs!r}")
    return inputs


def pair_up(question: Any, context: Any) -> list[dict[str, Any]]:
    """Each question with its context: as many of both, or one context for all questions."""
    if isinstance(question, list) and isinstance(context, list):
        if len(question) != len(context):
            raise ValueError(f"there are {len(question)} questions and {len(context)} contexts")
        return [{"question": q, "context": c} for q, c in zip(question, context, strict=True)]
    if isinstance(question, list) and isinstance(context, str):
        return [{"question": q, "context": context} for q in question]
    if isinstance(question, str) and isinstance(context, str):
        return [{"question": question, "context": context}]
    raise ValueError(
        f"question and context must be texts or lists, got {type(question).__name__} and {type(context).__name__}"
    )


def as_examples(item: Any) -> Example | list[Example]:
    """A checked example; several where a dict holds lists."""
    if isinstance(item, Example):
        return item
    if not isinstance(item, dict):
        raise ValueError(f"an example is a dict with a question and a context, got {item!r}")
    for name in ("question", "context"):
        if name not in item:
            raise KeyError(f"an example needs a {name}: {item!r}")
        if item[name] is None or item[name] == "":
            raise ValueError(f"{name} cannot be empty, got {item[name]!r}")
    if more := sorted(set(item) - {"question", "context"}):
        raise TypeError(f"an example has a question and a context, and no {more[0]}")
    if isinstance(item["question"], list):
        return [Example(q, c) for q, c in zip(item["question"], item["context"], strict=False)]
    return Example(item["question"], item["context"])


def best_answers(
    context: str, read: list[tuple[Window, np.ndarray, np.ndarray]], settings: dict[str, Any]
) -> dict[str, Any] | list[dict[str, Any]]:
    """The best answers over all windows; those of the same text (case aside) add their scores."""
    top_k, align = settings.get("top_k", 1), settings.get("align_to_words", True)
    count = 2 * top_k + 10 if align else top_k  # whole words make some candidates equal
    answers: list[dict[str, Any]] = []
    impossible = 1_000_000.0
    for window, start_logits, end_logits in read:
        start, end = (probabilities(logits, window.in_context) for logits in (start_logits, end_logits))
        impossible = min(impossible, float(start[0] * end[0]))
        start[0] = end[0] = 0.0
        for span in best_spans(start, end, window.in_context, count, settings.get("max_answer_len", 15)):
            first, last = characters(window.encoding, span, align)
            text = context[first:last]
            same = [answer for answer in answers if answer["answer"].lower() == text.lower()]
            if same:
                same[0]["score"] += span.score
            else:
                answers.append({"score": span.score, "start": first, "end": last, "answer": text})
    if settings.get("handle_impossible_answer"):
        answers.append({"score": impossible, "start": 0, "end": 0, "answer": ""})
    answers = sorted(answers, key=lambda answer: -answer["score"])[:top_k]
    return answers[0] if len(answers) == 1 else answers


def probabilities(logits: np.ndarray, in_context: np.ndarray) -> np.ndarray:
    logits = np.where(in_context, logits, np.float32(EXCLUDED))
    e = np.exp(logits - logits.max())
    return np.asarray(e / e.sum())


def best_spans(start: np.ndarray, end: np.ndarray, in_context: np.ndarray, count: int, longest: int) -> Iterator[Span]:
    """The likeliest spans of at most `longest` tokens that begin and end in the context, from probabilities (S,).

    At most count candidates are looked at, before those outside the context are left out.
    """
    products = np.tril(np.triu(np.outer(start, end)), longest - 1)
    flat = -products.ravel()
    if count == 1:
        best = np.array([flat.argmin()])
    elif count >= len(flat):
        best = flat.argsort()
    else:
        best = flat.argpartition(count)[:count]
        best = best[flat[best].argsort()]
    for first, last in zip(*np.unravel_index(best, products.shape), strict=True):
        if in_context[first] and in_context[last]:
            yield Span(int(first), int(last), float(products[first, last]))


def characters(encoding: Encoding, span: Span, align: bool) -> tuple[int, int]:
    """Where a span stands in the context, widened to whole words if `align` and the tokens belong to words."""
    if align:
        words = encoding.token_to_word(span.start), encoding.token_to_word(span.end)
        if None not in words:
            first, last = (encoding.word_to_chars(word, 1) for word in words)  # type: ignore[arg-type]
            if first is not None and last is not None:
                return first[0], last[1]
    return encoding.offsets[span.start][0], encoding.offsets[span.end][1]
