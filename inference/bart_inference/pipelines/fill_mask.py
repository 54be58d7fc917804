"""The pipeline fill-mask, which gives the likeliest tokens for each <mask> of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bart_inference.pipelines.base import Pipeline, PipelineException, in_batches, logger, stated
from bart_inference.pipelines.tokenizer import Encoded, pad_rows
from bart_inference.tasks.common import in_buckets, softmax
from bart_inference.tasks.fill_mask import mask_positions, run_at_positions
from bart_inference.tokenization import pad


class FillMaskPipeline(Pipeline):
    """For each <mask> of a text its likeliest tokens: a list of {"score", "token", "token_str", "sequence"}.

    A text with several masks gives a list for each, whose `sequence` keeps the other masks and the special tokens.
    Keywords: top_k, targets (the only tokens to choose from; of other texts the first token counts), tokenizer_kwargs.
    """

    def settings(self, top_k: int | None = None, targets: Any = None, tokenizer_kwargs: Any = None) -> dict[str, Any]:
        target_ids = None
        if targets is not None:
            target_ids = self.target_ids([targets] if isinstance(targets, str) else targets)
        if self.tokenizer.mask_token_id is None:
            raise PipelineException("fill-mask", self.model.base_model_prefix, "the tokenizer has no mask token")
        return stated(top_k=top_k, tokenizer=tokenizer_kwargs, targets=target_ids)

    def target_ids(self, targets: Sequence[str]) -> list[int]:
        """The ids of the targets, ascending. A target that is not in the vocabulary is replaced by its first token."""
        ids = set()
        for target in targets:
            if not isinstance(target, str):
                raise ValueError(f"targets must be texts, got {type(target).__name__}: {target!r}")
            token = self.tokenizer.backend_tokenizer.token_to_id(target)
            if token is None:
                tokens = self.tokenizer.encode(target, add_special_tokens=False)
                replacement = "nothing"
                if tokens:
                    token = tokens[0]
                    replacement = self.tokenizer.convert_ids_to_tokens(token)
                logger.warning("the target %r is not in the vocabulary: %s is taken instead", target, replacement)
            if token is not None:
                ids.add(token)
        if not ids:
            raise ValueError(f"targets must be at least one token, got {targets!r}")
        return sorted(ids)

    def __call__(self, inputs: Any, **keywords: Any) -> Any:
        results = self.call(inputs, **keywords)
        return results[0] if isinstance(inputs, list) and len(inputs) == 1 else results

    def answer(self, inputs: list[Any], settings: dict[str, Any]) -> list[Any]:
        rows = [self.encode(item, settings.get("tokenizer", {})) for item in inputs]
        positions = [mask_positions(row.ids, self.tokenizer.mask_token_id) for row in rows]
        for i, row in enumerate(rows):
            name = f"inputs[{settings['first'] + i}]"
            if not positions[i]:
                reason = f"No mask_token ({self.tokenizer.mask_token}) found on the input: {name}"
                raise PipelineException("fill-mask", self.model.base_model_prefix, reason)
            self.check_length(row.ids, name, 'tokenizer_kwargs={"truncation": True} truncates it')
        probabilities = self.probabilities(rows, positions, settings["batch_size"])
        results = []
        for row, row_positions, row_probabilities in zip(rows, positions, probabilities, strict=True):
            is_only_mask = len(row_positions) == 1
            candidates = []
            for position, scores in zip(row_positions, row_probabilities, strict=True):
                candidates.append(self.fill(row.ids, position, scores, is_only_mask, settings))
            results.append(candidates[0] if is_only_mask else candidates)
        return results

    def probabilities(
        self, rows: Sequence[Encoded], positions: Sequence[list[int]], batch_size: int | None
    ) -> list[np.ndarray]:
        """For each row the probabilities of the vocabulary's tokens at its positions (n,V)."""
        prepared = self.model.prepared

        def run(batch: list[int]) -> list[np.ndarray]:
            ids, mask = pad_rows([rows[i] for i in batch], prepared.config.pad_token_id)
            batch_positions = [positions[i] for i in batch]
            padded_positions, _ = pad(batch_positions, 0)
            [logits] = in_buckets(run_at_positions, prepared, ids, mask.astype(bool), padded_positions)
            return [softmax(x[: len(masks)]) for x, masks in zip(logits, batch_positions, strict=True)]

        return in_batches([len(row.ids) for row in rows], batch_size, run)

    def encode(self, item: Any, options: dict[str, Any]) -> Encoded:
        """The row of a text, or of the first text of an inner list, whose texts must have equal lengths."""
        texts = item if isinstance(item, (list, tuple)) else [item]
        rows = [self.tokenizer.row(text, **options) for text in texts]
        if not rows:
            raise IndexError("an inner list must hold a text, and is empty")  # transformers raises an IndexError too
        if len({len(row.ids) for row in rows}) != 1:
            raise ValueError(f"the input must be a text, got {type(item).__name__}: {item!r}")
        return rows[0]

    def fill(
        self, ids: Sequence[int], position: int, probabilities: np.ndarray, is_only_mask: bool, settings: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The likeliest tokens for one mask. probabilities: of the vocabulary's tokens (V,)."""
        targets, top_k = settings.get("targets"), settings.get("top_k", 5)
        candidates = np.arange(len(probabilities)) if targets is None else np.array(targets)
        if top_k < 0 or (targets is None and top_k > len(probabilities)):
            # torch.topk, which transformers calls, raises a RuntimeError too.
            raise RuntimeError(f"top_k must be between 0 and the vocabulary's {len(probabilities)} tokens, got {top_k}")
        order = np.argsort(-probabilities[candidates], kind="stable")
        results = []
        for token in candidates[order[:top_k]].tolist():
            with_token = [*ids[:position], token, *ids[position + 1 :]]
            sequence = [i for i in with_token if i != self.tokenizer.pad_token_id]
            results.append(
                {
                    "score": float(probabilities[token]),
                    "token": token,
                    "token_str": self.tokenizer.decode([token]),
                    "sequence": self.tokenizer.decode(sequence, skip_special_tokens=is_only_mask),
                }
            )
        return results
