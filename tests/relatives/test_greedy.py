"""T5's greedy search generates PyTorch's tokens."""

import warnings

import numpy as np
import pytest
import torch
from t5_oneliner import greedy

from tests.relatives.twins import Twin, batch, model, of
from tests.twins import randomize


def ends_early(name: str, seed: int) -> Twin:
    """A twin with a large position bias, so that successive tokens differ and rows end at different lengths."""
    fresh = model(name, num_decoder_layers=1)
    randomize(fresh, seed)
    with torch.no_grad():
        fresh.shared.weight *= 0.3
        fresh.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight *= 12
        fresh.lm_head.weight[fresh.config.eos_token_id] *= 2
    return of(name, fresh)


@pytest.mark.parametrize("name,seed", [("t5", 2), ("t5-v1.1", 0)])
def test_tokens_are_pytorchs(name: str, seed: int) -> None:
    """Encoder and decoder differ in depth here.

    transformers runs without its KV cache, because it would make one with as many layers as the encoder has.
    """
    a = ends_early(name, seed)
    x = batch(a, B=8, S=12)
    inputs = {name: torch.tensor(x[name]).long() for name in ("input_ids", "attention_mask")}
    with warnings.catch_warnings(action="ignore"):
        theirs = a.torch.generate(**inputs, num_beams=1, do_sample=False, max_length=14, use_cache=False).numpy()
    theirs = np.pad(theirs, ((0, 0), (0, 14 - theirs.shape[1])), constant_values=a.config.pad_token_id)
    ours = np.asarray(greedy(a.params, a.config, x["input_ids"], x["attention_mask"], max_length=14))
    np.testing.assert_array_equal(ours, theirs)
    lengths = (theirs == a.config.eos_token_id).argmax(1)
    assert len(set(lengths)) > 1, f"the example is too simple, all rows have the same length: {lengths}"
    assert len(np.unique(theirs)) > 8, f"the example is too simple, it has few different tokens: {np.unique(theirs)}"
