"""fill-mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bart_inference.pipelines.base import Pipeline, PipelineException, in_batches, logger, only_text
from bart_inference.pipelines.tokenizer import Encoded
from bart_inference.tasks.common import in_buckets, softmax
from bart_inference.tasks.fill_mask import run_blanks
from bart_inference.tokenization import pad


class FillMaskPipeline(Pipeline):
    """For each <mask> of a text its likeliest tokens: a list of {"score", "token", "token_str", "sequence"}.

    A text with several masks gives a list for each, whose `sequence` keeps the other masks and the special tokens.
    Keywords: top_k, targets (tokens of the vocabulary, or texts whose first token counts), tokenizer_kwargs.
    """

    def settings(self, top_k: int | None = None, targets: Any = None, tokenizer_kwargs: Any = None) -> dict[str, Any]:
        given: dict[str, Any] = {"top_k": top_k, "tokenizer": tokenizer_kwargs}
        if targets is not None:
            given["targets"] = self.target_ids([targets] if isinstance(targets, str) else targets)
        if self.tokenizer.mask_token_id is None:
            raise PipelineException("fill-mask", self.model.base_model_prefix, "the tokenizer has no mask token")
        return {name: value for name, value in given.items() if value is not None}

    def target_ids(self, targets: Sequence[str]) -> list[int]:
        ids = set()
        for target in targets:
            token = self.tokenizer.backend_tokenizer.token_to_id(target)
            if token is None:
                tokens = self.tokenizer.encode(target, add_special_tokens=False)[:1]
                token = tokens[0] if tokens else None
                [instead] = self.tokenizer.convert_ids_to_tokens(tokens) if tokens else ["nothing"]
                logger.warning("the target %r is not in the vocabulary: %s is taken instead", target, instead)
            if token is not None:
                ids.add(token)
        if not ids:
            raise ValueError(f"targets must be at least one token, got {targets!r}")
        return sorted(ids)

    def __call__(self, inputs: Any, **keywords: Any) -> Any:
        results = self.call(inputs, **keywords)
        return results[0] if isinstance(inputs, list) and len(inputs) == 1 else results

    def answer(self, inputs: list[Any], settings: dict[str, Any]) -> list[Any]:
        prepared, mask_id = self.model.prepared, self.tokenizer.mask_token_id
        rows = [self.encode(item, settings.get("tokenizer", {})) for item in inputs]
        blanks = [[i for i, token in enumerate(row.ids) if token == mask_id] for row in rows]
        for i, (row, at) in enumerate(zip(rows, blanks, strict=True), settings["first"]):
            if not at:
                reason = f"No mask_token ({self.tokenizer.mask_token}) found on the input: inputs[{i}]"
                raise PipelineException("fill-mask", self.model.base_model_prefix, reason)
            self.check_length(row.ids, f"inputs[{i}]", 'tokenizer_kwargs={"truncation": True} cuts it')

        def run(batch: list[int]) -> list[np.ndarray]:
            ids, _ = pad([rows[i].ids for i in batch], prepared.config.pad_token_id)
            mask, _ = pad([rows[i].mask for i in batch], 0)
            [logits] = in_buckets(run_blanks, prepared, ids, mask.astype(bool), pad([blanks[i] for i in batch], 0)[0])
            return [softmax(logits[row, : len(blanks[i])]) for row, i in enumerate(batch)]

        probabilities = in_batches([len(row.ids) for row in rows], settings["batch_size"], run)
        results = []
        for row, at, scores in zip(rows, blanks, probabilities, strict=True):
            filled = [self.fill(row.ids, place, s, len(at) == 1, settings) for place, s in zip(at, scores, strict=True)]
            results.append(filled[0] if len(at) == 1 else filled)
        return results

    def encode(self, item: Any, options: dict[str, Any]) -> Encoded:
        if isinstance(item, list) and len(item) == 1:
            item = item[0]
        return self.tokenizer.row(only_text(item), **options)

    def fill(
        self, ids: Sequence[int], place: int, scores: np.ndarray, alone: bool, settings: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The likeliest tokens of one blank; scores are the vocabulary's (V,)."""
        targets, top_k = settings.get("targets"), settings.get("top_k", 5)
        candidates = np.arange(len(scores)) if targets is None else np.array(targets)
        if targets is None and top_k > len(scores):
            raise RuntimeError(f"top_k={top_k} is more than the vocabulary's {len(scores)} tokens")  # torch's class
        best = candidates[np.argsort(-scores[candidates], kind="stable")[:top_k]].tolist()
        results = []
        for token in best:
            tokens = [t for t in [*ids[:place], token, *ids[place + 1 :]] if t != self.tokenizer.pad_token_id]
            results.append(
                {
                    "score": float(scores[token]),
                    "token": token,
                    "token_str": self.tokenizer.decode([token]),
                    "sequence": self.tokenizer.decode(tokens, skip_special_tokens=alone),
                }
            )
        return results
