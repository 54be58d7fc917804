"""What all pipelines share: how a call's inputs are told apart, batches, laziness."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from bart_inference.buckets import LENGTHS, bucket
from bart_inference.pipelines.arguments import Device
from bart_inference.pipelines.model import PipelineModel
from bart_inference.pipelines.tokenizer import PipelineTokenizer

logger = logging.getLogger("bart_inference")
T = TypeVar("T")

BATCH_ROWS = 64  # rows of a batch where the caller sets no batch_size
BATCH_POSITIONS = 16_384  # and its positions, padding included: 16 rows of 1,024 tokens


class PipelineException(Exception):
    """An input that the task cannot work on, as a text without a mask; transformers' class of the same name."""

    def __init__(self, task: str, model: str, reason: str):
        super().__init__(reason)
        self.task = task
        self.model = model


class PositionTableError(ValueError, IndexError):
    """More tokens than the model has positions. transformers answers with an IndexError, our functions a ValueError."""


class PipelineIterator:
    """Results of inputs that arrive lazily: nothing is read before its result is asked for, but for batch_size inputs.

    Iterating anew starts anew where the inputs allow it. len() is that of the inputs, TypeError if they have none.
    """

    def __init__(self, inputs: Any, answer: Callable[[list[Any], int], list[Any]], batch_size: int):
        """answer: of a batch, with the number of inputs before it."""
        self._inputs = inputs
        self._answer = answer
        self._batch_size = batch_size
        self._results: Iterator[Any] | None = None

    def __len__(self) -> int:
        return len(self._inputs)

    def __iter__(self) -> PipelineIterator:
        self._results = self._run()
        return self

    def __next__(self) -> Any:
        if self._results is None:
            self._results = self._run()
        return next(self._results)

    def _run(self) -> Iterator[Any]:
        batch: list[Any] = []
        done = 0
        for item in each(self._inputs):
            batch.append(item)
            if len(batch) == self._batch_size:
                yield from self._answer(batch, done)
                done += len(batch)
                batch = []
        if batch:
            yield from self._answer(batch, done)


def each(inputs: Any) -> Iterator[Any]:
    """The items of a generator, an iterable, or of something with only __len__ and __getitem__."""
    if hasattr(inputs, "__iter__"):
        yield from inputs
    else:
        for i in range(len(inputs)):
            yield inputs[i]


def is_lazy(inputs: Any) -> bool:
    """Whether inputs are many that arrive one by one: a generator, an iterator, a Dataset or what behaves as one."""
    if isinstance(inputs, (str, bytes, list, tuple, set, frozenset, Mapping, np.ndarray, np.generic)):
        return False
    return hasattr(inputs, "__iter__") or (hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"))


def only_text(item: Any) -> str:
    """A text, alone or in a tuple, as the tokenizers of transformers take it; ValueError for anything else."""
    if isinstance(item, tuple) and len(item) == 1:
        item = item[0]
    if not isinstance(item, str):
        raise ValueError(f"the input must be a text, got {type(item).__name__}: {item!r}")
    return item


class Pipeline:
    """Text in, transformers' result out. Subclasses say what their keywords mean and how inputs are answered.

    Attributes that scripts read: task, model, tokenizer, device, framework.
    """

    framework = "pt"  # what scripts compare it with; the arrays that return_tensors=True gives are numpy's

    def __init__(
        self,
        model: PipelineModel,
        tokenizer: PipelineTokenizer,
        task: str,
        device: Device,
        batch_size: int | None = None,
        num_workers: Any = None,
        **defaults: Any,
    ):
        """defaults: keywords of the call. num_workers has no effect: there is no loader to feed."""
        self.model = model
        self.tokenizer = tokenizer
        self.task = task
        self.device = device
        self._batch_size = batch_size
        self._defaults = self.settings(**defaults)

    def settings(self, *args: Any, **keywords: Any) -> dict[str, Any]:
        """A call's or the constructor's keywords, checked. Only what was given has an entry."""
        raise NotImplementedError

    def answer(self, inputs: list[Any], settings: dict[str, Any]) -> list[Any]:
        """One result for each input. settings has "batch_size", and "first", the number of inputs before these."""
        raise NotImplementedError

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Inputs are positional; a second positional argument has no effect, as in transformers."""
        if len(args) > 1:
            logger.warning("Ignoring args : %s", args[1:])
        return self.call(*args[:1], **keywords)

    def call(self, inputs: Any, num_workers: Any = None, batch_size: int | None = None, **keywords: Any) -> Any:
        """A result for one input, a list for a list, an iterator for what is lazy."""
        batch_size = self._batch_size if batch_size is None else batch_size
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        settings = {**self._defaults, **self.settings(**keywords), "batch_size": batch_size, "first": 0}
        if isinstance(inputs, list):
            return self.answer(inputs, settings)
        if is_lazy(inputs):

            def answer(batch: list[Any], first: int) -> list[Any]:
                return self.answer(batch, {**settings, "first": first})

            return PipelineIterator(inputs, answer, batch_size or 1)
        return self.answer([inputs], settings)[0]

    def transform(self, X: Any) -> Any:
        return self(X)

    def predict(self, X: Any) -> Any:
        return self(X)

    def check_length(self, ids: Sequence[int], name: str, advice: str) -> None:
        """PositionTableError if a row is longer than the model's position table."""
        limit = self.model.prepared.config.max_position_embeddings
        if len(ids) > limit:
            raise PositionTableError(f"{name} has {len(ids)} tokens, the model reads {limit}: {advice}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task!r} on {self.device}: {self.model.name_or_path}>"


def in_batches(lengths: Sequence[int], batch_size: int | None, run: Callable[[list[int]], Sequence[T]]) -> list[T]:
    """run on rows in batches, each a list of row numbers -> the results in the rows' order.

    Rows of similar length go together, so that little is padding; a batch is as large as batch_size or, without one, as
    BATCH_ROWS and BATCH_POSITIONS allow.
    """
    results: dict[int, T] = {}
    for batch in plan_batches(lengths, batch_size):
        results |= zip(batch, run(batch), strict=True)
    return [results[i] for i in range(len(lengths))]


def plan_batches(lengths: Sequence[int], batch_size: int | None) -> list[list[int]]:
    """Row numbers of each batch, the longest rows first."""
    batches: list[list[int]] = []
    most = width = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        padded = bucket(lengths[row], LENGTHS, max(lengths[row], LENGTHS[-1]))
        shorter = 2 * padded < width and len(batches[-1]) >= 4  # a few rows are not worth a program of their own
        if not batches or len(batches[-1]) == most or shorter:
            batches.append([])
            width = padded
            most = batch_size or max(1, min(BATCH_ROWS, BATCH_POSITIONS // width))
        batches[-1].append(row)
    return batches
