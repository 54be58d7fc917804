"""The pipelines summarization, text2text-generation and translation, which generate texts for each text."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bart_inference.generation.generate import generate
from bart_inference.pipelines import options as merging
from bart_inference.pipelines.base import Pipeline, PositionTableError, in_batches, logger, stated
from bart_inference.tokenization import pad


class Text2TextGenerationPipeline(Pipeline):
    """For each text a list of num_return_sequences dicts, each with a generated text (an answer).

    For a list of texts with one answer each, the result is one flat list of dicts. Keywords: truncation, return_tensors
    (numpy int64 token ids instead of text), clean_up_tokenization_spaces, stop_sequence, generation_config, and
    generation options under transformers' names.
    """

    return_name = "generated"
    verb = "generate from"

    def __init__(self, *args: Any, **defaults: Any):
        if "generation_config" in defaults:
            raise TypeError("generation_config is an argument of the call, not of the constructor")
        constructor = {}
        for name in list(defaults):
            if merging.is_option(name):
                constructor[name] = defaults.pop(name)
        super().__init__(*args, **defaults)
        prepared, config = self.model.prepared, self.model.config
        self._checkpoint = merging.of_checkpoint(prepared.generation, prepared.config_json)
        task_params = (config.task_specific_params or {}).get(self.task) or {}
        self.prefix = task_params.get("prefix", config.prefix)
        self.generation_config = merging.of_pipeline(self._checkpoint, task_params, constructor)

    def settings(
        self,
        return_tensors: bool | None = None,
        return_text: bool | None = None,
        return_type: Any = None,
        clean_up_tokenization_spaces: bool | None = None,
        truncation: Any = None,
        stop_sequence: str | None = None,
        **generation: Any,
    ) -> dict[str, Any]:
        """return_text has no effect, as in transformers. return_type: 0 for token ids, 1 for text, or a ReturnType."""
        if return_type is not None:
            return_tensors = getattr(return_type, "value", return_type) == 0
        if stop_sequence is not None:
            if not isinstance(stop_sequence, str):
                raise TypeError(f"stop_sequence must be a text, got {type(stop_sequence).__name__}: {stop_sequence!r}")
            ids = self.tokenizer.encode(stop_sequence, add_special_tokens=False)
            if len(ids) > 1:
                logger.warning("stop_sequence %r is %d tokens: the first alone stops", stop_sequence, len(ids))
            generation["eos_token_id"] = ids[0]
        return stated(
            truncation=truncation,
            clean_up=clean_up_tokenization_spaces,
            return_tensors=return_tensors,
            generation=generation or None,
        )

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        if not args and "inputs" in keywords:
            # transformers raises an IndexError too.
            raise IndexError("give the texts as the first argument, without a name")
        if not args:
            raise TypeError(f"{type(self).__name__} needs a text, or a list of texts, as its first argument")
        results = super().__call__(*args, **keywords)
        texts = args[0]
        is_list_of_texts = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        if is_list_of_texts and all(len(result) == 1 for result in results):
            return [result[0] for result in results]
        return results

    def call(self, *args: Any, **keywords: Any) -> Any:
        return super().call(*args, **{**self._defaults.get("generation", {}), **keywords})

    def answer(self, inputs: list[Any], settings: dict[str, Any]) -> list[list[dict[str, Any]]]:
        options = self.options(settings.get("generation", {}))
        rows = [self.encode(item, i, settings) for i, item in enumerate(inputs, settings["first"])]
        self.warn([len(row) for row in rows], options)
        answers = self.generate(rows, options, settings["batch_size"])
        if settings.get("return_tensors"):
            return self.as_arrays(answers, settings["batch_size"] or 1)
        clean_up = settings.get("clean_up", False)
        results = []
        for row_answers in answers:
            results.append([self.record(ids, clean_up) for ids in row_answers])
        return results

    def generate(
        self, rows: Sequence[list[int]], options: Mapping[str, Any], batch_size: int | None
    ) -> list[list[np.ndarray]]:
        """For each row of token ids the token ids of its answers, without padding."""
        prepared = self.model.prepared._replace(generation={})  # `options` includes the checkpoint's defaults

        def run(batch: list[int]) -> list[list[np.ndarray]]:
            input_ids, attention_mask = pad([rows[i] for i in batch], prepared.config.pad_token_id)
            generated = generate(prepared, input_ids, attention_mask, **options)
            sequences = [ids[:n] for ids, n in zip(generated.sequences, generated.lengths, strict=True)]
            per_row = len(sequences) // len(batch)
            return [sequences[first : first + per_row] for first in range(0, len(sequences), per_row)]

        return in_batches([len(row) for row in rows], batch_size, run)

    def options(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """The generation options of a call, merged from all sources.

        PositionTableError if a length goes beyond the model's position table.
        """
        call = dict(call)
        config = call.pop("generation_config", None)
        if config is None:
            base, is_default = self.generation_config.to_dict(), self.generation_config.length_is_default
        else:
            version = merging.version_of(self.model.prepared.generation)
            base, is_default = merging.of_generation_config(config, self._checkpoint, version), False
        options = merging.of_call(base, is_default, call)
        positions = self.model.prepared.config.max_position_embeddings
        if is_default and options.get("max_new_tokens") == merging.DEFAULT_NEW_TOKENS:
            options["max_new_tokens"] = self.default_new_tokens
        for name, start_tokens in (("max_new_tokens", 1), ("max_length", 0)):
            length = options.get(name)
            if isinstance(length, int) and length + start_tokens > positions:
                raise PositionTableError(f"{name}={length} goes beyond the model's {positions} positions")
            if length is not None:
                break
        if options.get("do_sample") and "seed" not in options:
            # The seed is drawn by Python's random module, so that random.seed or transformers.set_seed repeats samples.
            options["seed"] = random.getrandbits(32)
        return options

    def encode(self, item: Any, i: int, settings: Mapping[str, Any]) -> list[int]:
        """Token ids of the prefix and a text. Of an inner list the first text is read, as in transformers.

        i: the index of the text, for messages.
        """
        texts = item if isinstance(item, list) else [item]
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"texts[{i}] must be a text or a list of texts, got {type(text).__name__}: {text!r}")
        if not texts or not texts[0].strip():
            raise ValueError(f"texts[{i}] is empty: there is nothing to {self.verb}")
        limit = min(self.tokenizer.model_max_length, self.model.prepared.config.max_position_embeddings)
        text = (self.prefix or "") + texts[0]
        ids = self.tokenizer.encode(text, truncation=settings.get("truncation", False), max_length=limit)
        self.check_length(ids, f"texts[{i}]", "truncation=True truncates it")
        return ids

    def warn(self, lengths: list[int], options: Mapping[str, Any]) -> None:
        """Log a warning if the lengths of texts or answers are likely a mistake. lengths: of the texts, in tokens."""

    def record(self, ids: np.ndarray, clean_up: bool) -> dict[str, Any]:
        """The result for one answer."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=clean_up)
        return {f"{self.return_name}_text": text}

    def as_arrays(self, answers: list[list[np.ndarray]], batch_size: int) -> list[list[dict[str, Any]]]:
        """The results as token ids, padded to the longest answer among each batch_size inputs, as in transformers."""
        pad_id = self.model.prepared.config.pad_token_id
        results: list[list[dict[str, Any]]] = []
        for first in range(0, len(answers), batch_size):
            batch = answers[first : first + batch_size]
            length = 0
            for row_answers in batch:
                length = max(length, max(len(ids) for ids in row_answers))
            for row_answers in batch:
                records = []
                for ids in row_answers:
                    padded = np.pad(ids, (0, length - len(ids)), constant_values=pad_id)
                    records.append({f"{self.return_name}_token_ids": padded.astype(np.int64)})
                results.append(records)
        return results

    @property
    def default_new_tokens(self) -> int:
        """transformers' default of 256 new tokens, or fewer if the position table has no room for so many."""
        return min(merging.DEFAULT_NEW_TOKENS, self.model.prepared.config.max_position_embeddings - 1)

    def is_default_length(self, options: Mapping[str, Any]) -> bool:
        """Whether neither the call nor another source sets the length of the answers."""
        return self.generation_config.length_is_default and options.get("max_new_tokens") == self.default_new_tokens


def output_limit(options: Mapping[str, Any]) -> int:
    """The largest number of tokens that an answer can have, the start token included."""
    new_tokens = options.get("max_new_tokens")
    if new_tokens is not None:
        return int(new_tokens) + 1
    return int(options.get("max_length") or 21)


class SummarizationPipeline(Text2TextGenerationPipeline):
    """Summaries of texts, as dicts with `summary_text`."""

    return_name = "summary"
    verb = "summarize"

    def warn(self, lengths: list[int], options: Mapping[str, Any]) -> None:
        max_length, min_length = output_limit(options), options.get("min_length") or 0
        if max_length < min_length:
            logger.warning("Your min_length=%d must be inferior than your max_length=%d.", min_length, max_length)
        short = [length for length in lengths if length < max_length]
        if short and not self.is_default_length(options):
            logger.warning(
                "Your max_length is set to %d, but your input_length is only %d. A summary is usually shorter than its "
                "text: you might consider decreasing max_length manually, e.g. summarizer('...', max_length=%d)",
                max_length, short[0], short[0] // 2,
            )  # fmt: skip


class TranslationPipeline(Text2TextGenerationPipeline):
    """Translations, as dicts with `translation_text`.

    src_lang and tgt_lang have no effect, because BART has no language tokens.
    """

    return_name = "translation"
    verb = "translate"

    def settings(self, *args: Any, **keywords: Any) -> dict[str, Any]:
        keywords.pop("src_lang", None)
        keywords.pop("tgt_lang", None)
        return super().settings(**keywords)

    def warn(self, lengths: list[int], options: Mapping[str, Any]) -> None:
        max_length = output_limit(options)
        long = [length for length in lengths if length > 0.9 * max_length]
        if long:
            logger.warning(
                "Your input_length: %d is bigger than 0.9 * max_length: %d. You might consider increasing your "
                "max_length manually, e.g. translator('...', max_length=400)",
                long[0], max_length,
            )  # fmt: skip
