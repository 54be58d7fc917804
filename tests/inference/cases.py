"""Draws random cases for generation: checkpoints of many shapes, batches, and every option that we support.

A case depends on its seed alone, so that the message of a failed test contains all that is needed to repeat it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from bart_inference import Prepared, prepare
from transformers import BartConfig, BartForConditionalGeneration

from support import oracle
from support.oracle import Case, Outcome
from tests.twins import TINY, Twin, of, randomize

torch.set_num_threads(1)  # for these tiny models, waiting for other threads takes longer than computing

SMALL: dict[str, Any] = {**TINY, "d_model": 48}  # encoder and decoder differ in depth, heads and width
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "uneven": {},
    "pad-is-0": {"pad_token_id": 0, "bos_token_id": 1, "forced_eos_token_id": None, "activation_function": "relu"},
    "scaled": {"scale_embedding": True, "activation_function": "silu"},
    "no-forced-end": {"forced_eos_token_id": None, "activation_function": "gelu_new"},
    "deep-encoder": {"encoder_layers": 5, "decoder_layers": 1},
    "deep-decoder": {"encoder_layers": 1, "decoder_layers": 5, "decoder_start_token_id": 0},
    "wide": {"d_model": 96, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 1003},
    "few-heads": {"encoder_attention_heads": 2, "decoder_attention_heads": 1, "activation_function": "tanh"},
    "long": {"max_position_embeddings": 150, "forced_eos_token_id": None},
}


@functools.cache
def checkpoint(name: str) -> tuple[Twin, Prepared]:
    """A random checkpoint with the fields of CHECKPOINTS[name], whose answers have different tokens and lengths.

    A BART with random weights usually repeats one token: the head, which is tied to the embeddings, favors the latest
    token and the embedding with the largest norm, and cross-attention outweighs self-attention. So here all embeddings
    have the same norm, position embeddings are larger, cross-attention has smaller weights, and the end-of-sequence
    token has a positive bias.
    """
    model = BartForConditionalGeneration(BartConfig(**{**SMALL, **CHECKPOINTS[name]}))
    randomize(model, seed=sum(map(ord, name)))
    with torch.no_grad():
        for path, weight in [*model.named_parameters(), *model.named_buffers()]:
            if path.endswith("bias"):
                weight *= 0.2
            if path.startswith("model.decoder") and path.endswith("encoder_attn.out_proj.weight"):
                weight *= 0.3
        model.model.decoder.embed_positions.weight *= 3
        embedding = model.model.shared.weight
        embedding *= 0.5 * embedding.shape[1] ** 0.5 / embedding.norm(dim=1, keepdim=True)
        model.final_logits_bias[0, model.config.eos_token_id] += 5
    twin = of(model)
    return twin, prepare(twin.model)


Draw = Callable[[np.random.Generator, int], Any]  # (generator, vocabulary size) -> a random value of an option


def pick(*values: Any) -> Draw:
    return lambda rng, V: values[rng.integers(len(values))]


def words(count: int, length: int) -> Draw:
    return lambda rng, V: [rng.integers(3, V, rng.integers(1, length + 1)).tolist() for _ in range(count)]


def biases(rng: np.random.Generator, V: int) -> dict[tuple[int, ...], float]:
    """A sequence_bias of single tokens and sequences. Two end with the same token; one begins with the start token."""
    a, b, c, d = rng.integers(3, V, 4).tolist()
    return {(a,): -3.0, (b,): 4.0, (c, b): 2.5, (d, b): 1.5, (a, c, d): 6.0, (2, d): 5.0}


# No token that is forced here is suppressed here: if every token is excluded, any result would be right.
OPTIONS: dict[str, Draw] = {
    "max_length": pick(18, 24, 32),
    "max_new_tokens": pick(17, 25),
    "min_length": pick(3, 8, 14),
    "min_new_tokens": pick(2, 6, 12),
    "no_repeat_ngram_size": pick(1, 2, 3, 4),
    "encoder_no_repeat_ngram_size": pick(1, 2, 3),
    "repetition_penalty": pick(1.3, 0.7, 2.0),
    "encoder_repetition_penalty": pick(1.3, 0.7, 3.0),
    "bad_words_ids": words(30, 3),
    "sequence_bias": biases,
    "suppress_tokens": lambda rng, V: rng.choice(np.arange(10, V), 12, replace=False).tolist(),
    "begin_suppress_tokens": lambda rng, V: [2, *rng.choice(np.arange(10, V), 20, replace=False).tolist()],
    "exponential_decay_length_penalty": pick((0, 1.1), (2, 1.5), (6, 1.02)),
    "forced_bos_token_id": pick(0, 7),
    "forced_eos_token_id": pick(2, [2, 5], 9),
    "renormalize_logits": pick(True),
    "eos_token_id": pick(2, [2, 5, 9], [7], [2, 3, 4, 5]),
    "decoder_start_token_id": pick(0, 2, 8),
    "bos_token_id": pick(4),
    "pad_token_id": pick(0, 1, 6),
}
BEAM_OPTIONS: dict[str, Draw] = {
    "length_penalty": pick(0.0, 2.0, -1.0, 0.6),
    "early_stopping": pick(True, False, "never"),
    "num_return_sequences": pick(2),
}


# Options that checkpoints of CHECKPOINTS set, switched off.
SWITCHED_OFF: list[dict[str, Any]] = [{"eos_token_id": None}, {"forced_eos_token_id": None}, {"pad_token_id": None}]


def draw_batch(rng: np.random.Generator, V: int, pad: int, B: int, S: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask (B,S) of rows with padding on the right. One batch in four also masks tokens inside the rows."""
    mask = np.arange(S) < rng.integers(2, S + 1, B)[:, None]
    ids = np.where(mask, rng.integers(3, V, (B, S)), pad)
    if rng.random() < 0.25:
        mask &= rng.random((B, S)) < 0.8
        mask[:, 0] = True
    return ids, mask.astype(np.int64)


def draw(name: str, seed: int, options: Mapping[str, Any], sizes: tuple[int, int]) -> Case:
    """Draws a case, one in five with prompts and one in eight without a mask. Its batch has sizes (B, S) or smaller."""
    rng = np.random.default_rng(seed)
    config = checkpoint(name)[0].config
    B, S = (int(rng.integers(limit - limit // 4, limit + 1)) for limit in sizes)
    ids, mask = draw_batch(rng, config.vocab_size, config.pad_token_id, B, S)
    prompts = None
    if rng.random() < 0.2:
        prompts = rng.integers(3, config.vocab_size, (B, int(rng.integers(1, 4))))
        if rng.random() < 0.5:
            prompts[:, 0] = options.get("decoder_start_token_id", config.decoder_start_token_id)
    return Case(name, ids, None if rng.random() < 0.125 else mask, prompts, options)


def alone(name: str, sizes: tuple[int, int] = (4, 16)) -> Iterator[Case]:
    """Cases for greedy search and three beams: without options, with each option alone, with each default off."""
    for beams in (1, 3):
        pool = OPTIONS if beams == 1 else {**OPTIONS, **BEAM_OPTIONS}
        yield draw(name, beams, {"num_beams": beams}, sizes)
        for i, (option, value) in enumerate(pool.items()):
            rng = np.random.default_rng((i, beams))
            options = {"num_beams": beams, option: value(rng, checkpoint(name)[0].config.vocab_size)}
            yield draw(name, 100 * beams + i, options, sizes)
        for i, off in enumerate(SWITCHED_OFF):
            yield draw(name, 100 * beams + 50 + i, {"num_beams": beams, **off}, sizes)


def combined(
    name: str, count: int, beams: tuple[int, ...] = (1, 2, 4), sizes: tuple[int, int] = (4, 16)
) -> Iterator[Case]:
    """`count` cases with several options each. Each option is in a quarter of the cases on average."""
    for seed in range(count):
        rng = np.random.default_rng((seed, 7))
        options: dict[str, Any] = {"num_beams": beams[seed % len(beams)]}
        pool = OPTIONS if options["num_beams"] == 1 else {**OPTIONS, **BEAM_OPTIONS}
        for option, value in pool.items():
            if rng.random() < 0.25:
                options[option] = value(rng, checkpoint(name)[0].config.vocab_size)
        yield draw(name, 10_000 + seed, options, sizes)


def compare(case: Case) -> Outcome:
    """Compares our result for a case with transformers' result from the same checkpoint."""
    twin, prepared = checkpoint(case.checkpoint)
    return oracle.compare(case, twin.torch, prepared)
