"""Merges the generation options of a call from their sources.

The sources, the one of highest priority first: the call; task_specific_params of config.json for the task; the
constructor; generation_config.json; the default of four beams and 256 new tokens. There are two exceptions. max_length
and min_length of the constructor take precedence over task_specific_params. The default of 256 new tokens does not
apply if any source sets max_length. As in transformers, a max_new_tokens that is set takes precedence over max_length,
whatever their sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

import numpy as np

from bart_inference.checkpoint import generation_is_of_config_json
from bart_inference.generation.options import MINIMA, NONE_MEANS, UNSUPPORTED, OptionError

DEFAULT_BEAMS, DEFAULT_NEW_TOKENS = 4, 256  # transformers 4.57.6, Text2TextGenerationPipeline
LENGTH_OPTIONS = ("max_length", "min_length")
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
GLOBAL_DEFAULTS = {**NONE_MEANS, "max_length": 20, "top_k": 50, "min_p": None}  # transformers' defaults
WITHOUT_EFFECT = {  # options that change no tokens, but only how transformers computes or what else it returns
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "cache_config",
    "cache_implementation", "compile_config", "disable_compile", "is_assistant", "max_matching_ngram_size",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "output_attentions", "output_hidden_states",
    "output_logits", "output_scores", "prefill_chunk_size", "return_legacy_cache", "synced_gpus",
    "target_lookbehind", "transformers_version", "use_cache", "use_model_defaults",
}  # fmt: skip

# Other arguments of transformers' generate(). Scripts pass some of them as None or False, which has no effect.
GENERATE_ARGUMENTS = {
    "assistant_model", "assistant_tokenizer", "custom_generate", "decoder_input_ids", "inputs_embeds",
    "logits_processor", "negative_prompt_attention_mask", "negative_prompt_ids", "prefix_allowed_tokens_fn",
    "return_dict_in_generate", "stopping_criteria", "streamer", "tokenizer",
}  # fmt: skip


class OptionTypeError(OptionError, TypeError):
    """An option of a wrong type: a ValueError as in this package, a TypeError as in transformers."""


class GenerationConfig:
    """The class of a pipeline's attribute `generation_config`: options as attributes, with transformers' defaults.

    Setting an attribute changes the next call of the pipeline.
    """

    def __init__(self, options: Mapping[str, Any], length_is_default: bool = False):
        """length_is_default: no source has set max_length or max_new_tokens."""
        self.__dict__.update(options)
        self.__dict__["length_is_default"] = length_is_default

    def __getattr__(self, name: str) -> Any:
        if name in GLOBAL_DEFAULTS:
            return GLOBAL_DEFAULTS[name]
        raise AttributeError(f"GenerationConfig has no option {name!r}")

    def update(self, **options: Any) -> None:
        self.__dict__.update(options)

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "length_is_default"}

    def __repr__(self) -> str:
        return f"GenerationConfig {self.to_dict()}"


def is_option(name: str) -> bool:
    """Whether the name is an attribute of transformers' GenerationConfig, or `seed`."""
    return name in NONE_MEANS or name in UNSUPPORTED or name in WITHOUT_EFFECT


def supported(options: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The options that have an effect here. OptionError for an option of UNSUPPORTED that is switched on.

    source: for the message. Names without an effect are left out. Options of SAMPLING_ONLY are not checked
    here: `of_call` does it, because they count only if tokens are sampled.
    """
    for name, value in options.items():
        if name in UNSUPPORTED and name not in SAMPLING_ONLY and value is not None and value not in UNSUPPORTED[name]:
            raise OptionError(name, f"is set to {value!r} by {source}, and is not supported")
    return {name: value for name, value in options.items() if name in NONE_MEANS or name in SAMPLING_ONLY}


def of_checkpoint(generation: Mapping[str, Any], config_json: Mapping[str, Any]) -> dict[str, Any]:
    """The options of generation_config.json or, without such a file, of config.json as BartConfig reads it.

    generation: a Model's field of that name. BartConfig sets forced_eos_token_id to 2 if config.json does not have it.
    """
    options = supported(generation, "the checkpoint")
    if generation_is_of_config_json(generation) and "forced_eos_token_id" not in config_json:
        options["forced_eos_token_id"] = 2
    return options


def version_of(generation: Mapping[str, Any]) -> str | None:
    """The transformers version that wrote generation_config.json; None if the file is missing or names no version."""
    if generation_is_of_config_json(generation):
        return None
    return generation.get("transformers_version")


def of_pipeline(
    checkpoint: Mapping[str, Any], task_params: Mapping[str, Any], constructor: Mapping[str, Any]
) -> GenerationConfig:
    """The options of calls that set none, merged from all other sources.

    checkpoint: the result of of_checkpoint. task_params: task_specific_params of the task. constructor: its keywords.
    """
    constructor = supported(constructor, "the constructor")
    task_params = supported(task_params, "task_specific_params")
    lengths: dict[str, Any] = {}
    for name in LENGTH_OPTIONS:
        value = constructor.pop(name, None)
        if value is not None:
            lengths[name] = value
    options = {"num_beams": DEFAULT_BEAMS, **checkpoint, **constructor, **task_params, **lengths}
    length_is_default = options.get("max_length") is None and options.get("max_new_tokens") is None
    if length_is_default:
        options["max_new_tokens"] = DEFAULT_NEW_TOKENS
    return GenerationConfig(options, length_is_default)


def of_generation_config(config: Any, checkpoint: Mapping[str, Any], version: str | None) -> dict[str, Any]:
    """The options of a call's `generation_config`, which replaces that of the pipeline.

    config: a mapping, or an object with to_dict(). Options that have transformers' default in it are taken from the
    checkpoint. If transformers before 4.50 wrote generation_config.json, these are the special token ids only.
    """
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise ValueError(f"generation_config must be a mapping or have to_dict(), got {type(config).__name__}")
    stated = supported(config if isinstance(config, Mapping) else config.to_dict(), "generation_config")
    for name, value in list(stated.items()):
        if value is None or value == GLOBAL_DEFAULTS.get(name, 1.0):
            del stated[name]
    if is_recent(version):
        return {**checkpoint, **stated}
    special_ids = {name: checkpoint[name] for name in SPECIAL_IDS if name in checkpoint}
    return {**special_ids, **stated}


def is_recent(version: str | None) -> bool:
    """Whether the version is 4.50 or later. A file that names no version counts as recent, as in transformers."""
    if not version:
        return True
    numbers = [int(part) for part in str(version).split(".")[:2] if part.isdigit()]
    return numbers >= [4, 50]


def of_call(base: Mapping[str, Any], length_is_default: bool, call: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one call.

    base: from of_pipeline or of_generation_config. length_is_default: whether its length is the default of 256.
    As in transformers, an unknown name is a ValueError, and a TypeError if its value is None. OptionTypeError
    for a number of a wrong type.
    """
    options_of_call = {}
    for name, value in call.items():
        is_unset_argument = name in GENERATE_ARGUMENTS and value in (None, False)
        if not is_unset_argument:
            options_of_call[name] = value
    call = options_of_call
    unknown = [name for name in call if not is_option(name)]
    if any(call[name] is None for name in unknown):
        raise TypeError(f"{unknown[0]} is not an option")
    if unknown:
        raise ValueError(
            f"these are not options of the pipeline, nor of generation: {unknown}; generation options are given "
            "directly, as in max_length=60"
        )
    stated = supported(call, "the call")
    for name in ("max_length", "max_new_tokens"):
        if name in stated and stated[name] is None:
            del stated[name]
    options = dict(base)
    if length_is_default and "max_length" in stated and options.get("max_new_tokens") == DEFAULT_NEW_TOKENS:
        del options["max_new_tokens"]
    options |= stated
    for name in SAMPLING_ONLY:
        if not options.get("do_sample"):
            options.pop(name, None)  # ignored without sampling, as in transformers, even temperature=0
        elif name in UNSUPPORTED and options.pop(name, None) not in (None, *UNSUPPORTED[name]):
            raise OptionError(name, "is not supported")
    check_types(options)
    return options


def check_types(options: dict[str, Any]) -> None:
    """OptionTypeError for a number of a wrong type. As in transformers, do_sample may be 0 or 1."""
    if options.get("do_sample") in (0, 1):
        options["do_sample"] = bool(options["do_sample"])
    for name, value in options.items():
        default = NONE_MEANS.get(name)
        if name in MINIMA and not isinstance(value, (int, np.integer, NoneType)):
            raise OptionTypeError(name, f"must be an integer, got {value!r}")
        if isinstance(default, float) and not isinstance(value, (int, float, np.number, NoneType)):
            raise OptionTypeError(name, f"must be a number, got {value!r}")
