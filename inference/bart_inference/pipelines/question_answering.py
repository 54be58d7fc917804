"""The pipeline question-answering, which finds the answer to a question in a context. In shapes, S is the positions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding

from bart_inference.pipelines.base import Pipeline, in_batches, is_lazy, logger, stated
from bart_inference.pipelines.tokenizer import padding_strategy
from bart_inference.tasks.common import softmax
from bart_inference.tasks.question_answering import question_answering
from bart_inference.tokenization import pad

EXCLUDED = -10_000.0  # replaces the logits of tokens that cannot be in an answer, as in transformers


class Example(NamedTuple):
    """A question, and the context in which its answer is searched."""

    question: str
    context: str


class Window(NamedTuple):
    """The tokens of a question and of a part of its context, which the model reads at once."""

    example: int  # the index of the question and context
    encoding: Encoding
    in_context: np.ndarray  # (S,) bool: tokens of the context, and the start token, which stands for "no answer"


class ScoredWindow(NamedTuple):
    """A window, and the logits (S,) of its tokens to begin and to end the answer."""

    window: Window
    start_logits: np.ndarray
    end_logits: np.ndarray


class Span(NamedTuple):
    """The tokens `start` to `end` of a window, `end` included, and the probability that they are the answer."""

    start: int
    end: int
    score: float


class QuestionAnsweringPipeline(Pipeline):
    """For each question {"score", "start", "end", "answer"}; with top_k above 1 a list of them.

    Called as pipe(question=…, context=…), each a text or a list; also with a dict or a list of dicts. Keywords: top_k,
    doc_stride, max_seq_len, max_answer_len, handle_impossible_answer, align_to_words. If question and context have more
    than max_seq_len tokens, the context is read in windows that overlap by doc_stride tokens.
    """

    splits_inputs = True

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
        """padding, max_question_len and unknown names have no effect on results, as in transformers."""
        if padding is not None:
            padding_strategy(padding)
        if topk is not None and top_k is None:
            logger.warning("topk is deprecated: its name is top_k")
            top_k = topk
        for name, value in (("top_k", top_k), ("max_answer_len", max_answer_len)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        return stated(
            top_k=top_k,
            doc_stride=doc_stride,
            max_answer_len=max_answer_len,
            max_seq_len=max_seq_len,
            handle_impossible_answer=handle_impossible_answer,
            align_to_words=align_to_words,
        )

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        if args:
            logger.warning("positional arguments are deprecated: use pipe(question=…, context=…)")
        inputs = find_inputs(args, keywords)
        if is_lazy(inputs):
            return self.call(inputs, **keywords)
        items = [inputs] if isinstance(inputs, dict | Example) else inputs
        examples = [as_examples(item) for item in items]
        return self.call(examples[0] if len(examples) == 1 else examples, **keywords)

    @staticmethod
    def create_sample(question: Any, context: Any) -> Example | list[Example]:
        """An example for a call, or several if question and context are lists."""
        return as_examples({"question": question, "context": context})

    def answer(self, inputs: list[Any], settings: dict[str, Any]) -> list[Any]:
        examples: list[Example] = []
        windows: list[Window] = []
        for i, item in enumerate(inputs):
            example = item if isinstance(item, Example) else Example(item["question"], item["context"])
            examples.append(example)
            windows.extend(self.windows(i, example, settings))
        scored: list[list[ScoredWindow]] = [[] for _ in examples]
        for window, (start, end) in zip(windows, self.logits(windows, settings["batch_size"]), strict=True):
            scored[window.example].append(ScoredWindow(window, start, end))
        answers = []
        for example, example_windows in zip(examples, scored, strict=True):
            answers.append(best_answers(example.context, example_windows, settings))
        return answers

    def logits(self, windows: Sequence[Window], batch_size: int | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each window the logits (S,) of its tokens to begin, and to end, the answer."""
        prepared = self.model.prepared

        def run(batch: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
            rows = [windows[i].encoding.ids for i in batch]
            input_ids, attention_mask = pad(rows, prepared.config.pad_token_id)
            spans = question_answering(prepared, input_ids, attention_mask)
            logits = []
            for row, start, end in zip(rows, spans.start_logits, spans.end_logits, strict=True):
                logits.append((start[: len(row)], end[: len(row)]))
            return logits

        return in_batches([len(window.encoding.ids) for window in windows], batch_size, run)

    def windows(self, i: int, example: Example, settings: dict[str, Any]) -> Iterator[Window]:
        """The windows of one example. i: the index of the example."""
        max_length = settings.get("max_seq_len", min(self.tokenizer.model_max_length, 384))
        stride = settings.get("doc_stride", min(max_length // 2, 128))
        if stride > max_length:
            raise ValueError(f"doc_stride ({stride}) is larger than max_seq_len ({max_length})")
        encoding = self.tokenizer.encoding(*example, truncation="only_second", max_length=max_length, stride=stride)
        for part in (encoding, *encoding.overflowing):
            self.check_length(part.ids, f"context {i} with its question", "give a smaller max_seq_len")
            in_context = np.array([sequence == 1 for sequence in part.sequence_ids])
            in_context |= np.array(part.ids) == self.tokenizer.cls_token_id
            yield Window(i, part, in_context)


def find_inputs(args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """The examples in the arguments of a call, in any form that transformers takes. as_examples checks each of them."""
    if args:
        if len(args) == 2 and all(type(value) is str for value in args):
            return {"question": args[0], "context": args[1]}
        inputs = args[0] if len(args) == 1 else list(args)
    elif "X" in keywords or "data" in keywords:
        logger.warning("X and data are deprecated: use pipe(question=…, context=…)")
        inputs = keywords["X"] if "X" in keywords else keywords["data"]
    elif "question" in keywords and "context" in keywords:
        return pair_up(keywords["question"], keywords["context"])
    else:
        raise ValueError(f"a question and a context are needed, got {sorted(keywords)}")
    if not isinstance(inputs, Iterable) and not is_lazy(inputs):
        raise ValueError(f"give pipe(question=…, context=…), or a dict with both, got {inputs!r}")
    return inputs


def pair_up(question: Any, context: Any) -> list[dict[str, Any]]:
    """Each question with its context: two lists of one length, or one context for all questions."""
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
    """The Example of a dict, or several if the dict holds lists. KeyError, ValueError or TypeError for a wrong dict."""
    if isinstance(item, Example):
        return item
    if not isinstance(item, dict):
        raise ValueError(f"an example is a dict with a question and a context, got {item!r}")
    for name in ("question", "context"):
        if name not in item:
            raise KeyError(f"an example needs a {name}: {item!r}")
        if item[name] is None or item[name] == "":
            raise ValueError(f"{name} cannot be empty, got {item[name]!r}")
    if unknown := sorted(set(item) - {"question", "context"}):
        raise TypeError(f"an example has a question and a context, and no {unknown[0]}")
    if isinstance(item["question"], list):
        return [Example(q, c) for q, c in zip(item["question"], item["context"], strict=False)]
    return Example(item["question"], item["context"])


def best_answers(
    context: str, windows: Sequence[ScoredWindow], settings: dict[str, Any]
) -> dict[str, Any] | list[dict[str, Any]]:
    """The top_k answers over all windows, the likeliest first; a single one without a list.

    Answers whose texts are equal in lower case are one answer, and their scores are added.
    """
    top_k, align = settings.get("top_k", 1), settings.get("align_to_words", True)
    max_tokens = settings.get("max_answer_len", 15)
    count = 2 * top_k + 10 if align else top_k  # several spans can become equal when they are widened to whole words
    answers: dict[str, dict[str, Any]] = {}  # by their text in lower case
    no_answer = 1_000_000.0
    for window, start_logits, end_logits in windows:
        start = softmax(np.where(window.in_context, start_logits, np.float32(EXCLUDED)))
        end = softmax(np.where(window.in_context, end_logits, np.float32(EXCLUDED)))
        no_answer = min(no_answer, float(start[0] * end[0]))
        start[0] = end[0] = 0.0
        for span in best_spans(start, end, window.in_context, count, max_tokens):
            first, last = characters(window.encoding, span, align)
            text = context[first:last]
            if text.lower() in answers:
                answers[text.lower()]["score"] += span.score
            else:
                answers[text.lower()] = {"score": span.score, "start": first, "end": last, "answer": text}
    ranked = list(answers.values())
    if settings.get("handle_impossible_answer"):
        ranked.append({"score": no_answer, "start": 0, "end": 0, "answer": ""})
    ranked.sort(key=lambda answer: -answer["score"])
    return ranked[0] if len(ranked[:top_k]) == 1 else ranked[:top_k]


def best_spans(
    start: np.ndarray, end: np.ndarray, in_context: np.ndarray, count: int, max_tokens: int
) -> Iterator[Span]:
    """The likeliest spans of at most max_tokens tokens that begin and end in the context.

    start, end: each token's probability (S,) to begin and to end the answer. count: how many of the likeliest spans are
    considered; those among them that are outside the context are left out.
    """
    products = np.tril(np.triu(np.outer(start, end)), max_tokens - 1)
    costs = -products.ravel()
    if count == 1:
        best = np.array([costs.argmin()])
    elif count >= len(costs):
        best = costs.argsort()
    else:
        best = costs.argpartition(count)[:count]
        best = best[costs[best].argsort()]
    for first, last in zip(*np.unravel_index(best, products.shape), strict=True):
        if in_context[first] and in_context[last]:
            yield Span(int(first), int(last), float(products[first, last]))


def characters(encoding: Encoding, span: Span, align: bool) -> tuple[int, int]:
    """The characters of a span in the context: the index of the first one, and of the one after the last.

    align: widen the span to whole words, if its tokens belong to words.
    """
    first_word, last_word = encoding.token_to_word(span.start), encoding.token_to_word(span.end)
    if align and first_word is not None and last_word is not None:
        first, last = encoding.word_to_chars(first_word, 1), encoding.word_to_chars(last_word, 1)
        if first is not None and last is not None:
            return first[0], last[1]
    return encoding.offsets[span.start][0], encoding.offsets[span.end][1]
