"""feature-extraction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bart_inference.pipelines.base import Pipeline, in_batches
from bart_inference.pipelines.tokenizer import Encoded, PipelineTokenizer
from bart_inference.tasks.features import features
from bart_inference.tokenization import pad


class FeatureExtractionPipeline(Pipeline):
    """For each text the decoder's hidden states, [1][tokens][D]: nested lists, arrays with return_tensors=True.

    Keywords: truncation, tokenize_kwargs (more of the tokenizer's), return_tensors.
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
        given: dict[str, Any] = {"tokenizer": tokenizer} if tokenizer else {}
        return given if return_tensors is None else {**given, "return_tensors": return_tensors}

    def answer(self, inputs: list[Any], settings: dict[str, Any]) -> list[Any]:
        options = {**self._defaults.get("tokenizer", {}), **settings.get("tokenizer", {})}
        encoded = [self.encode(item, options) for item in inputs]
        items = pad_batches(encoded, settings["batch_size"] or 1, self.tokenizer)
        rows = [row for item in items for row in item]
        for row in rows:
            self.check_length(row.ids, "a text", "truncation=True cuts it")
        prepared = self.model.prepared

        def run(batch: list[int]) -> list[np.ndarray]:
            ids, _ = pad([rows[i].ids for i in batch], prepared.config.pad_token_id)
            mask, _ = pad([rows[i].mask for i in batch], 0)
            hidden = features(prepared, ids, mask).last_hidden_state
            return [hidden[row, : len(rows[i].ids)] for row, i in enumerate(batch)]

        hidden = in_batches([len(row.ids) for row in rows], settings["batch_size"], run)
        results, first = [], 0
        for item in items:
            array = np.stack(hidden[first : first + len(item)])
            results.append(array if settings.get("return_tensors") else array.tolist())
            first += len(item)
        return results

    def encode(self, item: Any, options: dict[str, Any]) -> list[Encoded]:
        """Rows of one length of a text, or of a list of texts. ValueError for anything else."""
        texts = list(item) if isinstance(item, (list, tuple)) else [item]
        rows = [self.tokenizer.row(text, **options) for text in texts]
        if len({len(row.ids) for row in rows}) > 1:
            raise ValueError("an inner list must hold texts of one length in tokens, or be given as a plain list")
        return rows


def pad_batches(
    items: Sequence[Sequence[Encoded]], batch_size: int, tokenizer: PipelineTokenizer
) -> list[list[Encoded]]:
    """Rows as long as the longest of their batch_size inputs, which is what transformers returns."""
    padded = []
    for first in range(0, len(items), batch_size):
        batch = items[first : first + batch_size]
        width = max(len(row.ids) for item in batch for row in item)
        padded += [[row.padded(width, tokenizer.pad_token_id) for row in item] for item in batch]
    return padded
