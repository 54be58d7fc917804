"""The pipeline feature-extraction, which returns the decoder's hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bart_inference.pipelines.base import Pipeline, in_batches, stated
from bart_inference.pipelines.tokenizer import Encoded, PipelineTokenizer, pad_rows
from bart_inference.tasks.features import features


class FeatureExtractionPipeline(Pipeline):
    """For each text the decoder's hidden states, as lists [1][tokens][width], or as an array with return_tensors=True.

    Keywords: truncation, tokenize_kwargs (other arguments of the tokenizer), return_tensors.
    """

    def settings(
        self, truncation: Any = None, tokenize_kwargs: Any = None, return_tensors: bool | None = None, **ignored: Any
    ) -> dict[str, Any]:
        """Other names have no effect, as in transformers."""
        tokenizer = dict(tokenize_kwargs or {})
        if truncation is not None:
            if "truncation" in tokenizer:
                raise ValueError("truncation is given twice, by itself and in tokenize_kwargs")
            tokenizer["truncation"] = truncation
        return stated(tokenizer=tokenizer or None, return_tensors=return_tensors)

    def answer(self, inputs: list[Any], settings: dict[str, Any]) -> list[Any]:
        options = {**self._defaults.get("tokenizer", {}), **settings.get("tokenizer", {})}
        items = [self.encode(item, options) for item in inputs]
        items = pad_batches(items, settings["batch_size"] or 1, self.tokenizer)
        rows: list[Encoded] = []
        for i, item in enumerate(items, settings["first"]):
            for row in item:
                self.check_length(row.ids, f"inputs[{i}]", "truncation=True truncates it")
            rows.extend(item)
        hidden = self.hidden_states(rows, settings["batch_size"])
        results = []
        first = 0
        for item in items:
            array = np.stack(hidden[first : first + len(item)])
            results.append(array if settings.get("return_tensors") else array.tolist())
            first += len(item)
        return results

    def hidden_states(self, rows: Sequence[Encoded], batch_size: int | None) -> list[np.ndarray]:
        """The decoder's hidden states (tokens,width) of each row."""
        prepared = self.model.prepared

        def run(batch: list[int]) -> list[np.ndarray]:
            batch_rows = [rows[i] for i in batch]
            ids, mask = pad_rows(batch_rows, prepared.config.pad_token_id)
            hidden = features(prepared, ids, mask).last_hidden_state
            return [states[: len(row.ids)] for row, states in zip(batch_rows, hidden, strict=True)]

        return in_batches([len(row.ids) for row in rows], batch_size, run)

    def encode(self, item: Any, options: dict[str, Any]) -> list[Encoded]:
        """The row of a text, or the rows of an inner list of texts, which must have equal lengths."""
        texts = list(item) if isinstance(item, (list, tuple)) else [item]
        rows = [self.tokenizer.row(text, **options) for text in texts]
        if not rows:
            raise IndexError("an inner list must hold a text, and is empty")  # transformers raises an IndexError too
        lengths = [len(row.ids) for row in rows]
        if len(set(lengths)) > 1:
            raise ValueError(f"the texts of an inner list must have one length, got {lengths} tokens: use a plain list")
        return rows


def pad_batches(
    items: Sequence[Sequence[Encoded]], batch_size: int, tokenizer: PipelineTokenizer
) -> list[list[Encoded]]:
    """The rows of all inputs, padded to the longest row among each batch_size inputs.

    transformers returns the hidden states of this padding too, so the results have the same shapes.
    """
    padded: list[list[Encoded]] = []
    for first in range(0, len(items), batch_size):
        batch = items[first : first + batch_size]
        length = 0
        for rows in batch:
            length = max(length, max(len(row.ids) for row in rows))
        for rows in batch:
            padded.append([row.padded(length, tokenizer.pad_token_id) for row in rows])
    return padded
