"""The pipelines text-classification and zero-shot-classification. In shapes, C is the number of classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bart_inference.pipelines.base import Pipeline, in_batches, logger, only_text
from bart_inference.pipelines.tokenizer import Encoded, pad_rows
from bart_inference.tasks.classify import classify
from bart_inference.tasks.common import softmax

FUNCTIONS = {"SIGMOID": "sigmoid", "SOFTMAX": "softmax", "NONE": "none"}
DEFAULT_TEMPLATE = "This example is {}."  # transformers' default of hypothesis_template


class Classifier(Pipeline):
    """The base class of both pipelines, which computes the classification head's logits."""

    def logits(self, rows: Sequence[Encoded], batch_size: int | None) -> list[np.ndarray]:
        """The logits (C,) of each row."""
        prepared = self.model.prepared

        def run(batch: list[int]) -> list[np.ndarray]:
            ids, mask = pad_rows([rows[i] for i in batch], prepared.config.pad_token_id)
            return list(classify(prepared, ids, mask))

        return in_batches([len(row.ids) for row in rows], batch_size, run)


class TextClassificationPipeline(Classifier):
    """For each text the likeliest label; with top_k (None: all) a list of labels, the likeliest first.

    Keywords: top_k, function_to_apply ("softmax", "sigmoid", "none"), return_all_scores (True gives all labels in the
    order of their ids), and arguments of the tokenizer: truncation, max_length, padding, add_special_tokens.
    """

    def settings(
        self, return_all_scores: bool | None = None, function_to_apply: Any = None, top_k: Any = "", **tokenizer: Any
    ) -> dict[str, Any]:
        """top_k: "", transformers' default, means that the caller does not state it; None means all labels."""
        settings: dict[str, Any] = {}
        if isinstance(top_k, int) or top_k is None:
            settings |= {"top_k": top_k, "sorted": True}
        elif return_all_scores is not None:
            logger.warning("return_all_scores is deprecated: top_k=None gives all labels, top_k=1 the likeliest")
            settings["top_k"] = None if return_all_scores else 1
        if isinstance(function_to_apply, str):
            function_to_apply = FUNCTIONS[function_to_apply.upper()]
        if function_to_apply is not None:  # a name, or a member of transformers' enumeration whose value is the name
            settings["function"] = getattr(function_to_apply, "value", function_to_apply)
        if tokenizer:
            settings["tokenizer"] = tokenizer
        return settings

    def __call__(self, inputs: Any, **keywords: Any) -> Any:
        result = self.call(inputs, **keywords)
        return [result] if isinstance(inputs, str) and "top_k" not in keywords else result

    def answer(self, inputs: list[Any], settings: dict[str, Any]) -> list[Any]:
        options = {**self._defaults.get("tokenizer", {}), **settings.get("tokenizer", {})}
        rows = [self.encode(item, options) for item in inputs]
        for i, row in enumerate(rows, settings["first"]):
            self.check_length(row.ids, f"inputs[{i}]", "truncation=True truncates it")
            # The classification head reads the state of this token. transformers raises an IndexError too.
            if self.model.prepared.config.eos_token_id not in row.ids:
                raise IndexError(f"inputs[{i}] has no end-of-sequence token: leave out add_special_tokens=False")
        return [self.labels(logits, settings) for logits in self.logits(rows, settings["batch_size"])]

    def encode(self, item: Any, options: dict[str, Any]) -> Encoded:
        """The row of a text, or of a pair as {"text": …, "text_pair": …} or in the older form [[text, pair]]."""
        if isinstance(item, dict):
            return self.tokenizer.row(**item, **options)
        if isinstance(item, list):
            if len(item) == 1 and isinstance(item[0], list) and len(item[0]) == 2:
                return self.tokenizer.row(*item[0], **options)
            raise ValueError(f'a pair of texts is given as {{"text": …, "text_pair": …}}, got {item!r}')
        return self.tokenizer.row(only_text(item), **options)

    def labels(self, logits: np.ndarray, settings: dict[str, Any]) -> Any:
        """The result for one text from its logits (C,)."""
        names = self.model.config.id2label
        scores = apply(settings.get("function") or self.default_function(), logits)
        top_k, in_order = settings.get("top_k", 1), settings.get("sorted", False)
        if top_k == 1 and not in_order:
            best = int(scores.argmax())
            return {"label": names[best], "score": float(scores[best])}
        if in_order:
            classes = np.argsort(-scores, kind="stable")[:top_k]
        else:
            classes = np.arange(len(scores))
        return [{"label": names[i], "score": float(scores[i])} for i in classes.tolist()]

    def default_function(self) -> str:
        """The function_to_apply that transformers infers from the checkpoint's problem_type and number of labels."""
        config = self.model.config
        if config.problem_type == "regression":
            return "none"
        if config.problem_type == "multi_label_classification" or config.num_labels == 1:
            return "sigmoid"
        return "softmax"


def apply(function: Any, logits: np.ndarray) -> np.ndarray:
    """Scores from logits; ValueError for an unknown function."""
    if function == "softmax":
        return softmax(logits)
    if function == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-logits)))
    if function == "none":
        return logits
    raise ValueError(f"function_to_apply must be 'softmax', 'sigmoid' or 'none', got {function!r}")


class ZeroShotClassificationPipeline(Classifier):
    """For each text {"sequence", "labels", "scores"}, the likeliest label first.

    Keywords: candidate_labels (a list, or one text that is split at commas), hypothesis_template, multi_label.
    """

    splits_inputs = True

    def __init__(self, *args: Any, **defaults: Any):
        super().__init__(*args, **defaults)
        self.entailment_id = -1
        for label, i in self.model.config.label2id.items():
            if label.lower().startswith("entail"):
                self.entailment_id = i
                break
        else:
            logger.warning("none of the checkpoint's labels is an entailment: the last one is taken for it")

    def settings(self, **keywords: Any) -> dict[str, Any]:
        """Unknown names have no effect, as in transformers."""
        settings: dict[str, Any] = {}
        for name in ("hypothesis_template", "multi_label"):
            if name in keywords:
                settings[name] = keywords[name]
        if keywords.get("multi_class") is not None:
            logger.warning("multi_class is deprecated: its name is multi_label")
            settings["multi_label"] = keywords["multi_class"]
        if "candidate_labels" in keywords:
            labels = keywords["candidate_labels"]
            if isinstance(labels, str):
                labels = [label.strip() for label in labels.split(",") if label.strip()]
            settings["labels"] = labels
        return settings

    def __call__(self, sequences: Any, *args: Any, **keywords: Any) -> Any:
        if args:
            if len(args) > 1 or "candidate_labels" in keywords:
                raise ValueError(f"only the texts and candidate_labels are positional, got {args} besides the texts")
            keywords["candidate_labels"] = args[0]
        return self.call(sequences, **keywords)

    def answer(self, inputs: list[Any], settings: dict[str, Any]) -> list[dict[str, Any]]:
        labels: Any = settings.get("labels")
        template = settings.get("hypothesis_template", DEFAULT_TEMPLATE)
        texts: list[str] = []
        rows: list[Encoded] = []
        for i, item in enumerate(inputs, settings["first"]):
            if labels is None or not hasattr(item, "__len__"):
                raise TypeError(f"zero-shot classification needs texts and candidate_labels, got {item!r}, {labels!r}")
            if len(labels) == 0 or len(item) == 0:
                raise ValueError("You must include at least one label and at least one sequence.")
            text = item if isinstance(item, str) else item[0]
            texts.append(text)
            rows.extend(self.pairs(text, i, labels, template))
        logits = iter(self.logits(rows, settings["batch_size"]))
        results = []
        for text in texts:
            scores = self.scores(np.stack([next(logits) for _ in labels]), settings)
            results.append({"sequence": text, **rank(labels, scores)})
        return results

    def pairs(self, text: str, i: int, labels: Sequence[Any], template: str) -> Iterator[Encoded]:
        """For each label a row of the text and the label's hypothesis. If a row is too long, the text is truncated.

        i: the index of the text, for the message.
        """
        if template.format(labels[0]) == template:
            raise ValueError(f"hypothesis_template must have a {{}} for the label, got {template!r}")
        for label in labels:
            hypothesis = template.format(label)
            try:
                row = self.tokenizer.row(text, hypothesis, truncation="only_first")
            except Exception as error:  # the tokenizers library raises Exception itself
                if "too short" not in str(error):
                    raise
                row = self.tokenizer.row(text, hypothesis)
            self.check_length(row.ids, f"sequences[{i}] beside {hypothesis!r}", "shorten the label")
            yield row

    def scores(self, logits: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
        """The scores (n,) of a text's n labels, from the logits (n,C) of their hypotheses."""
        if settings.get("multi_label") or len(logits) == 1:
            contradiction = -1 if self.entailment_id == 0 else 0
            return softmax(logits[:, [contradiction, self.entailment_id]])[:, 1]
        return softmax(logits[:, self.entailment_id])


def rank(labels: Sequence[Any], scores: np.ndarray) -> dict[str, list[Any]]:
    """The labels and their scores, the likeliest first."""
    order = scores.argsort()[::-1]
    return {"labels": [labels[i] for i in order], "scores": scores[order].tolist()}
