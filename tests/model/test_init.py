"""Initial parameters are drawn from PyTorch's distribution.

Two samples can differ by chance. Each statistical test below fails for a correct program with a probability of at most
1e-6. All seeds are fixed, so it fails always or never.
"""

import jax
import numpy as np
import pytest
import torch
from scipy import stats
from transformers import BartConfig, BartForConditionalGeneration

from bart_oneliner import Config, Params, convert, init, loss
from tests.distributions import FALSE_ALARM, assert_normal, assert_uncorrelated
from tests.twins import TINY, batch, flat

SIZES = {**TINY, "vocab_size": 500, "d_model": 96, "init_std": 0.05, "pad_token_id": 3}


def theirs(seed: int) -> Params:
    torch.manual_seed(seed)
    model = BartForConditionalGeneration(BartConfig(**SIZES))
    return convert({name: tensor.numpy() for name, tensor in model.state_dict().items()}, CONFIG)


CONFIG = Config(**SIZES)
OURS = flat(init(CONFIG, jax.random.key(0)))
THEIRS = flat(theirs(0))
DRAWN = [name for name in THEIRS if THEIRS[name].std() > 0 and "norm" not in name]


def test_the_same_tensors_are_random() -> None:
    assert [name for name in OURS if OURS[name].std() > 0] == DRAWN
    assert len(DRAWN) == 3 + 6 + 10, "not 3 embeddings and the 6 and 10 matrices of an encoder and a decoder layer"


@pytest.mark.parametrize("name", [name for name in THEIRS if name not in DRAWN])
def test_zeros_and_ones(name: str) -> None:
    assert OURS[name].dtype == THEIRS[name].dtype == np.float32
    np.testing.assert_array_equal(OURS[name], THEIRS[name])


@pytest.mark.parametrize("name", DRAWN)
def test_distribution(name: str) -> None:
    """Our tensors and PyTorch's have the normal distribution that the docstring of `init` states."""
    for who, sample in (("ours", OURS[name]), ("PyTorch's", THEIRS[name])):
        if name == "shared":
            assert not sample[CONFIG.pad_token_id].any(), f"{who} padding row is not zero"
            sample = np.delete(sample, CONFIG.pad_token_id, axis=0)
        assert_normal(sample, CONFIG.init_std, f"{who} {name}")


def test_no_two_tensors_are_correlated() -> None:
    """Layers of one tensor are not correlated either, so each random key is used once."""
    samples = {}
    for name in DRAWN:
        layers = OURS[name] if "layers" in name else [OURS[name][4:]]
        for i, layer in enumerate(layers):
            samples[f"{name}[{i}]"] = layer.ravel()[:1152]
    assert_uncorrelated(samples)


def test_another_key_gives_other_parameters_and_the_same_key_the_same() -> None:
    again, other = (flat(init(CONFIG, jax.random.key(seed))) for seed in (0, 1))
    for name in DRAWN:
        np.testing.assert_array_equal(OURS[name], again[name], name)
        assert np.abs(OURS[name] - other[name]).mean() > CONFIG.init_std, name


def test_fresh_models_have_pytorchs_loss() -> None:
    """Compares the losses of twelve models of ours and of PyTorch's for one batch by Welch's t-test."""
    x = batch(CONFIG, B=4, S=20, T=16)
    arrays = x["input_ids"], x["attention_mask"], x["labels"]
    ours = [float(loss(init(CONFIG, jax.random.key(seed)), CONFIG, *arrays)) for seed in range(12)]
    reference = [float(loss(theirs(seed), CONFIG, *arrays)) for seed in range(12)]
    assert stats.ttest_ind(ours, reference, equal_var=False).pvalue > FALSE_ALARM, (np.mean(ours), np.mean(reference))
    uniform = np.log(CONFIG.vocab_size)  # the loss if all tokens were equally likely
    assert uniform < np.mean(ours) < uniform + 0.3, f"an initial model's loss is {np.mean(ours):.3f}, not {uniform:.3f}"
