"""The filtered distribution equals transformers', samples follow it, and a seed gives the same sample in any batch."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import torch
from bart_inference import Options, generate
from bart_inference.generation.arrays import pack_options
from bart_inference.generation.sampling import apply_sampling_filters
from scipy.stats import chisquare
from transformers import GenerationConfig

from bart_oneliner import Config
from tests.inference.cases import checkpoint
from tests.twins import TINY

V = 300
CONFIG = Config.from_json({"model_type": "bart", **TINY, "vocab_size": V})
WARPERS: list[dict[str, Any]] = [
    {},  # transformers' default: top_k 50
    {"top_k": 0},
    {"top_k": 1},
    {"top_k": 200, "temperature": 0.3},
    {"top_k": 0, "top_p": 0.9},
    {"top_k": 0, "top_p": 0.1, "temperature": 3.0},
    {"top_k": 0, "top_p": 0.0},
    {"top_k": 7, "top_p": 0.8},
    {"top_k": 0, "min_p": 0.05},
    {"top_k": 100, "top_p": 0.95, "min_p": 0.02, "temperature": 0.7},
    {"top_k": 0, "min_p": 1.0},
    {"top_k": 3, "top_p": 0.5, "min_p": 0.5, "temperature": 10.0},
]


def theirs(logits: np.ndarray, options: dict[str, Any], beams: int) -> np.ndarray:
    """One row's logits after the logits processors that transformers makes for the options."""
    config = GenerationConfig(do_sample=True, num_beams=beams, **{"top_k": 50, **options})
    config._eos_token_tensor = torch.tensor([2, 5])
    processors = checkpoint("uneven")[0].torch._get_logits_processor(config, input_ids_seq_length=1, device="cpu")
    return processors(torch.zeros(1, 1, dtype=torch.long), torch.tensor(logits)[None])[0].numpy()


def ours(logits: np.ndarray, options: list[dict[str, Any]], beams: int) -> np.ndarray:
    """The rows' logits after our sampling filters, which process all rows at once, each with its own options."""
    rows = [Options(num_beams=beams, do_sample=True, eos_token_id=[2, 5], max_length=8, **o) for o in options]
    packed = pack_options(rows, CONFIG, 8, [1] * len(rows), [0] * len(rows))
    return np.asarray(jax.jit(apply_sampling_filters)(logits[:, None], packed))[:, 0]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_the_filtered_distribution_is_that_of_transformers(beams: int, spread: float) -> None:
    logits = np.random.default_rng(beams).normal(0, spread, (len(WARPERS), V)).astype(np.float32)
    filtered = ours(logits, WARPERS, beams)
    for i, options in enumerate(WARPERS):
        expected = theirs(logits[i], options, beams)
        assert np.array_equal(np.isfinite(filtered[i]), np.isfinite(expected)), (
            f"{options}: not the same tokens are kept"
        )
        np.testing.assert_allclose(filtered[i], expected, rtol=1e-6, err_msg=str(options))


@pytest.mark.parametrize("beams", [1, 3])
def test_ties_stay_together(beams: int) -> None:
    """We keep every token whose score equals the lowest score kept. transformers' top_k does so too.

    Of tokens with equal scores, transformers' top_p keeps those that torch's sort puts first, and torch does not
    document which these are.
    """
    logits = np.round(np.random.default_rng(7).normal(0, 1.5, (len(WARPERS), V)) * 2).astype(np.float32) / 2
    filtered = ours(logits, WARPERS, beams)
    for i, options in enumerate(WARPERS):
        mine, reference = np.isfinite(filtered[i]), np.isfinite(theirs(logits[i], options, beams))
        if not {"top_p", "min_p"} & set(options):
            assert np.array_equal(mine, reference), options
        assert not (reference & ~mine).any(), f"{options}: a token that transformers keeps is gone"
        kept_by_us_only = logits[i][mine & ~reference]
        lowest = logits[i][reference].min()
        assert (kept_by_us_only == lowest).all(), (
            f"{options}: tokens are kept whose score is not the lowest kept, {lowest}"
        )


def first_step_probabilities(options: dict[str, Any]) -> np.ndarray:
    """The probabilities (V,) with which transformers samples the first token of an answer to SOURCE."""
    model = checkpoint("uneven")[0].torch
    out = model.generate(
        torch.tensor(SOURCE), attention_mask=torch.ones(1, 12, dtype=torch.long), do_sample=True, max_new_tokens=1,
        forced_eos_token_id=None, output_scores=True, return_dict_in_generate=True, **options,
    )  # fmt: skip
    return out.scores[0][0].double().softmax(-1).numpy()


SOURCE = np.random.default_rng(3).integers(3, 99, (1, 12))


def draw(n: int, **options: Any) -> np.ndarray:
    """The first tokens (n,R) of answers sampled with the seeds 0 … n - 1, where R is num_return_sequences."""
    rows = [{"seed": seed} for seed in range(n)]
    generated = generate(
        checkpoint("uneven")[1], np.repeat(SOURCE, n, 0), options=rows, do_sample=True, max_new_tokens=1,
        forced_eos_token_id=None, **options,
    )  # fmt: skip
    return generated.sequences[:, 1].reshape(n, -1)


FALSE_ALARM = 1e-4  # probability that a chi-square test would fail without a fault, if the seeds were not fixed


@pytest.mark.parametrize("options", [{"top_k": 0, "top_p": 0.95, "temperature": 1.5}, {"top_k": 8, "temperature": 3.0}])
def test_samples_follow_the_filtered_distribution(options: dict[str, Any]) -> None:
    n = 3200
    expected = first_step_probabilities(options) * n
    counts = np.bincount(draw(n, **options)[:, 0], minlength=99)
    assert not counts[expected == 0].any(), "a token was drawn that transformers filters out"
    common = expected >= 5
    observed = [*counts[common], counts[~common].sum()]
    expected_counts = [*expected[common], expected[~common].sum()]
    keep = [i for i, value in enumerate(expected_counts) if value > 0]
    assert chisquare([observed[i] for i in keep], [expected_counts[i] for i in keep]).pvalue > FALSE_ALARM


def test_sampled_beams_are_drawn_without_replacement() -> None:
    """The tokens of two beams after one step have the distribution of two tokens drawn without replacement."""
    n, options = 3200, {"top_k": 5, "temperature": 4.0, "renormalize_logits": True}
    p = first_step_probabilities({**options, "top_k": 5, "num_beams": 1})
    likely = np.flatnonzero(p)
    pairs = {(i, j): p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i in likely for j in likely if i < j}
    drawn = np.sort(draw(n, num_beams=2, num_return_sequences=2, **options), axis=1)
    counts = dict.fromkeys(pairs, 0)
    for i, j in drawn.tolist():
        counts[i, j] += 1
    expected = np.array(list(pairs.values())) * n
    assert chisquare(list(counts.values()), expected * (n / expected.sum())).pvalue > FALSE_ALARM


def test_a_seed_gives_the_same_sample_alone_and_in_any_batch() -> None:
    prepared = checkpoint("uneven")[1]
    rng = np.random.default_rng(0)
    ids, sampling = rng.integers(3, 99, (4, 12)), {"do_sample": True, "max_length": 24, "top_k": 0}
    rows = [{"seed": seed} for seed in (5, 6, 5, 7)]
    together = generate(prepared, ids, options=rows, **sampling)
    again = generate(prepared, ids[::-1].copy(), options=rows[::-1], **sampling)
    for i in range(4):
        assert (together.sequences[i, : together.lengths[i]] == again.sequences[3 - i, : again.lengths[3 - i]]).all()
        alone = generate(prepared, ids[i : i + 1], seed=rows[i]["seed"], **sampling)
        assert (together.sequences[i, : together.lengths[i]] == alone.sequences[0, : alone.lengths[0]]).all()
    same_source = generate(prepared, ids[[0, 0, 0, 0]], options=rows, **sampling).sequences.tolist()
    assert same_source[0] == same_source[2], "one seed gave two answers"
    assert len({tuple(row) for row in same_source}) == 3, "two seeds gave one answer"


def test_the_samples_of_one_source_differ_and_reproduce() -> None:
    prepared = checkpoint("uneven")[1]
    sampling: dict[str, Any] = {"do_sample": True, "max_length": 24, "top_k": 0, "seed": 11}
    first = generate(prepared, SOURCE, num_return_sequences=4, **sampling)
    assert len({tuple(row) for row in first.sequences.tolist()}) == 4
    second = generate(prepared, SOURCE, num_return_sequences=4, **sampling)
    assert np.array_equal(first.sequences, second.sequences)
