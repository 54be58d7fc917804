"""The base class of all pipelines: it takes one input, a list or lazy inputs, and runs them in batches.

Inputs are lazy if they are read one by one, when results are asked for, as from a generator or a torch Dataset.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from bart_inference.buckets import LENGTHS, bucket
from bart_inference.pipelines.arguments import Device, is_integer
from bart_inference.pipelines.model import PipelineModel
from bart_inference.pipelines.tokenizer import PipelineTokenizer

logger = logging.getLogger("bart_inference")
T = TypeVar("T")

# The limits of a batch if the caller sets no batch_size.
BATCH_ROWS = 64
BATCH_POSITIONS = 16_384  # positions in all rows, padding included: 16 rows of 1,024 tokens


class PipelineException(Exception):
    """An input that the task cannot process, such as a text without <mask>. transformers has this name for it."""

    def __init__(self, task: str, model: str, reason: str):
        super().__init__(reason)
        self.task = task
        self.model = model


class PositionTableError(ValueError, IndexError):
    """More tokens than the model has positions: a ValueError as in this package, an IndexError as in transformers."""


class PipelineIterator:
    """The results of lazy inputs. When a result is asked for, its input is read with all others of its batch.

    A second iteration starts over if the inputs can be iterated again. len() is the number of inputs; TypeError if they
    have no len().
    """

    def __init__(self, inputs: Any, answer: Callable[[list[Any], int], list[Any]], batch_size: int):
        """answer: a function of a batch and the number of inputs before it, which returns a result for each input."""
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
        count = 0  # inputs before the batch
        for item in iterate(self._inputs):
            batch.append(item)
            if len(batch) == self._batch_size:
                yield from self._answer(batch, count)
                count += len(batch)
                batch = []
        if batch:
            yield from self._answer(batch, count)


def iterate(inputs: Any) -> Iterator[Any]:
    """The items of an iterable, or of an object that has only __len__ and __getitem__."""
    if hasattr(inputs, "__iter__"):
        yield from inputs
    else:
        for i in range(len(inputs)):
            yield inputs[i]


def is_lazy(inputs: Any) -> bool:
    """Whether the inputs are read one by one: a generator, an iterator, a Dataset, or an object that behaves so."""
    if isinstance(inputs, (str, bytes, list, tuple, set, frozenset, Mapping, np.ndarray, np.generic)):
        return False
    return hasattr(inputs, "__iter__") or (hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"))


def only_text(item: Any) -> str:
    """The text of an input: a text, or, as in transformers, a tuple of one text. ValueError for anything else."""
    if isinstance(item, tuple) and len(item) == 1:
        item = item[0]
    if not isinstance(item, str):
        raise ValueError(f"the input must be a text, got {type(item).__name__}: {item!r}")
    return item


def stated(**keywords: Any) -> dict[str, Any]:
    """The keywords that are not None, because None means that the caller left a keyword out."""
    return {name: value for name, value in keywords.items() if value is not None}


class Pipeline:
    """A task's pipeline: calls take transformers' arguments and return its results.

    Scripts read the attributes task, model, tokenizer, device and framework. Subclasses implement settings and answer.
    """

    splits_inputs = False  # whether one input can have several rows, so that batch_size counts for a single input too
    framework = "pt"  # for scripts that compare it with "pt" or "tf"; results are numpy arrays all the same

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
        """batch_size and defaults: keywords for calls that do not state them. num_workers has no effect."""
        self.model = model
        self.tokenizer = tokenizer
        self.task = task
        self.device = device
        self._batch_size = batch_size
        self._defaults = self.settings(**defaults)

    def settings(self, *args: Any, **keywords: Any) -> dict[str, Any]:
        """The settings that the keywords of a call or of the constructor state, checked, by their names."""
        raise NotImplementedError

    def answer(self, inputs: list[Any], settings: dict[str, Any]) -> list[Any]:
        """A result for each input.

        settings: those of the call and the constructor; "batch_size", or None; "first", the index of the first input
        among all inputs of the call, for messages.
        """
        raise NotImplementedError

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """A result for one input, a list of results for a list, an iterator for lazy inputs.

        The first argument holds the inputs; further ones have no effect, as in transformers.
        """
        if len(args) > 1:
            logger.warning("Ignoring args : %s", args[1:])
        return self.call(*args[:1], **keywords)

    def call(self, inputs: Any, num_workers: Any = None, batch_size: int | None = None, **keywords: Any) -> Any:
        """A result for one input, a list of results for a list, an iterator for lazy inputs."""
        settings = {**self._defaults, **self.settings(**keywords), "batch_size": None, "first": 0}
        is_single = not isinstance(inputs, list) and not is_lazy(inputs)
        if not is_single or self.splits_inputs:
            batch_size = self._batch_size if batch_size is None else batch_size
            if batch_size is not None and not (is_integer(batch_size) and batch_size >= 1):
                raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
            settings["batch_size"] = batch_size
        if is_single:
            return self.answer([inputs], settings)[0]
        if isinstance(inputs, list):
            return self.answer(inputs, settings)

        def answer(batch: list[Any], first: int) -> list[Any]:
            return self.answer(batch, {**settings, "first": first})

        return PipelineIterator(inputs, answer, batch_size or 1)

    def transform(self, X: Any) -> Any:
        """A call, by the name of scikit-learn's transformers."""
        return self(X)

    def predict(self, X: Any) -> Any:
        """A call, by the name of scikit-learn's predictors."""
        return self(X)

    def check_length(self, ids: Sequence[int], name: str, advice: str) -> None:
        """PositionTableError if a row is longer than the model's position table. name, advice: for the message."""
        limit = self.model.prepared.config.max_position_embeddings
        if len(ids) > limit:
            raise PositionTableError(f"{name} has {len(ids)} tokens, the model reads {limit}: {advice}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task!r} on {self.device}: {self.model.name_or_path}>"


def in_batches(lengths: Sequence[int], batch_size: int | None, run: Callable[[list[int]], Sequence[T]]) -> list[T]:
    """The results of rows that run in batches, in the order of the rows.

    lengths: of the rows. run: a function of a batch, which is a list of indices of rows, that returns a result for each
    of them. Rows of similar length share a batch, so that there is little padding. A batch has batch_size rows or,
    without batch_size, as many as BATCH_ROWS and BATCH_POSITIONS allow.
    """
    results: dict[int, T] = {}
    for batch in plan_batches(lengths, batch_size):
        results |= zip(batch, run(batch), strict=True)
    return [results[i] for i in range(len(lengths))]


def plan_batches(lengths: Sequence[int], batch_size: int | None) -> list[list[int]]:
    """The indices of the rows of each batch, the longest rows first."""
    batches: list[list[int]] = []
    capacity = 0  # the number of rows that the last batch can hold
    width = 0  # the number of positions of each of its rows, padding included
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        row_width = bucket(lengths[row], LENGTHS, max(lengths[row], LENGTHS[-1]))
        # A row of less than half the width starts a new batch, unless the last batch has fewer than 4 rows: then the
        # row's padding costs less than another run of the model.
        is_much_shorter = 2 * row_width < width and len(batches[-1]) >= 4
        if not batches or len(batches[-1]) == capacity or is_much_shorter:
            batches.append([])
            width = row_width
            capacity = batch_size or max(1, min(BATCH_ROWS, BATCH_POSITIONS // width))
        batches[-1].append(row)
    return batches
