"""Where the generation options of a call come from.

Strongest first: the call; config.json's task_specific_params of the task; the constructor; generation_config.json;
four beams and 256 new tokens. Lengths differ: max_length and min_length of the constructor win over
task_specific_params, and any max_length wins over the 256. As in transformers, max_new_tokens that somebody set wins
over max_length wherever either comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bart_inference.generation.options import NONE_MEANS, UNSUPPORTED, OptionError

DEFAULT_BEAMS, DEFAULT_NEW_TOKENS = 4, 256  # transformers 4.57.6, Text2TextGenerationPipeline
LENGTHS = ("max_length", "min_length")
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
GLOBAL_DEFAULTS = {**NONE_MEANS, "max_length": 20, "top_k": 50, "min_p": None}  # GenerationConfig's own
WITHOUT_EFFECT = {  # they change how transformers computes, or what it returns beside the tokens, not the tokens
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "cache_config",
    "cache_implementation", "compile_config", "disable_compile", "is_assistant", "max_matching_ngram_size",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "output_attentions", "output_hidden_states",
    "output_logits", "output_scores", "prefill_chunk_size", "return_legacy_cache", "synced_gpus",
    "target_lookbehind", "transformers_version", "use_cache", "use_model_defaults",
}  # fmt: skip


class GenerationConfig:
    """What `pipe.generation_config` is: options as attributes, those that nobody set with transformers' defaults.

    Setting an attribute changes the pipeline's next call.
    """

    def __init__(self, options: Mapping[str, Any], length_is_default: bool = False):
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
    """Whether it is an attribute of transformers' GenerationConfig, or our `seed`."""
    return name in NONE_MEANS or name in UNSUPPORTED or name in WITHOUT_EFFECT


def supported(options: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Those of the options that have an effect here; OptionError for one that would change tokens and is not supported.

    source: who set them, for the message. Names that are no options are left out; what changes samples alone is kept
    for `of_call`, which knows whether samples are drawn.
    """
    for name, value in options.items():
        if name in UNSUPPORTED and name not in SAMPLING_ONLY and value is not None and value not in UNSUPPORTED[name]:
            raise OptionError(name, f"is set to {value!r} by {source}, and is not supported")
    return {name: value for name, value in options.items() if name in NONE_MEANS or name in SAMPLING_ONLY}


def of_checkpoint(generation: Mapping[str, Any], config_json: Mapping[str, Any]) -> dict[str, Any]:
    """What generation_config.json says, or, where there is no such file, config.json as BartConfig reads it.

    generation: a Model's; in the second case it holds all of config.json, and BartConfig forces an end token.
    """
    options = supported(generation, "the checkpoint")
    if is_of_config_json(generation) and "forced_eos_token_id" not in config_json:
        options["forced_eos_token_id"] = 2
    return options


def is_of_config_json(generation: Mapping[str, Any]) -> bool:
    """Whether a Model's generation defaults come from config.json, for want of a generation_config.json."""
    return "model_type" in generation


def version_of(generation: Mapping[str, Any]) -> str | None:
    """The transformers version that wrote a checkpoint's generation_config.json; None where it does not matter."""
    return None if is_of_config_json(generation) else generation.get("transformers_version")


def of_pipeline(
    checkpoint: Mapping[str, Any], task_params: Mapping[str, Any], constructor: Mapping[str, Any]
) -> GenerationConfig:
    """The options of a pipeline's calls that say nothing themselves."""
    constructor = supported(constructor, "the constructor")
    for name in LENGTHS:
        if name in constructor and constructor[name] is None:
            del constructor[name]
    task_params = supported(task_params, "task_specific_params")
    lengths = {name: constructor[name] for name in LENGTHS if name in constructor}
    options = {"num_beams": DEFAULT_BEAMS, **checkpoint, **constructor, **task_params, **lengths}
    length_is_default = options.get("max_length") is None and options.get("max_new_tokens") is None
    if length_is_default:
        options["max_new_tokens"] = DEFAULT_NEW_TOKENS
    return GenerationConfig(options, length_is_default)


def of_generation_config(config: Any, checkpoint: Mapping[str, Any], version: str | None) -> dict[str, Any]:
    """A call's `generation_config`, which takes the place of the pipeline's: a mapping, or an object with to_dict().

    What it leaves at transformers' default is filled from the checkpoint; from a generation_config.json older than
    transformers 4.50 (`version`) only the special tokens are.
    """
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise ValueError(f"generation_config must be a mapping or have to_dict(), got {type(config).__name__}")
    stated = supported(config if isinstance(config, Mapping) else config.to_dict(), "generation_config")
    stated = {n: v for n, v in stated.items() if v is not None and v != GLOBAL_DEFAULTS.get(n, 1.0)}
    if is_recent(version):
        return {**checkpoint, **stated}
    return {**{name: checkpoint[name] for name in SPECIAL_IDS if name in checkpoint}, **stated}


def is_recent(version: str | None) -> bool:
    """Whether a generation_config.json fills what a call's leaves out: since 4.50, or if it names no version."""
    numbers = [int(part) for part in str(version or "4.57").split(".")[:2] if part.isdigit()]
    return numbers >= [4, 50]


def of_call(base: Mapping[str, Any], length_is_default: bool, call: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one call.

    ValueError for names that nobody knows, as transformers; TypeError for one that is None, as there.
    """
    unknown = [name for name in call if not is_option(name)]
    if any(call[name] is None for name in unknown):
        raise TypeError(f"{unknown[0]} is not an option")
    if unknown:
        raise ValueError(
            f"these are not options of the pipeline, nor of generation: {unknown}; generation options are given "
            "directly, as in max_length=60"
        )
    stated = {
        name: value
        for name, value in supported(call, "the call").items()
        if value is not None or name not in ("max_length", "max_new_tokens")
    }
    options = dict(base)
    if length_is_default and "max_length" in stated and options.get("max_new_tokens") == DEFAULT_NEW_TOKENS:
        del options["max_new_tokens"]
    options |= stated
    for name in SAMPLING_ONLY:
        if not options.get("do_sample"):
            options.pop(name, None)  # without effect, whatever it is, as temperature=0
        elif name in UNSUPPORTED and options.pop(name, None) not in (None, *UNSUPPORTED[name]):
            raise OptionError(name, "is not supported")
    return options
