"""greedy, the specification of generation, generates the tokens of PyTorch's greedy search."""

from typing import Any

import numpy as np
import pytest
import torch
from bart_inference import generate

from bart_oneliner import greedy
from tests.twins import Twin, batch, of, twin


def torch_greedy(a: Twin, x: dict[str, np.ndarray], **options: Any) -> np.ndarray:
    """PyTorch's tokens (B,max_length), padded on the right like those of our greedy."""
    inputs = {name: torch.tensor(x[name]).long() for name in ("input_ids", "attention_mask")}
    ids = a.torch.generate(**inputs, num_beams=1, do_sample=False, **options).numpy()
    return np.pad(ids, ((0, 0), (0, options["max_length"] - ids.shape[1])), constant_values=a.config.pad_token_id)


def ends_early() -> Twin:
    """A twin with large position embeddings, so that successive tokens differ and rows end at different lengths."""
    model = twin(decoder_layers=1).torch
    with torch.no_grad():
        model.model.decoder.embed_positions.weight *= 3
        model.final_logits_bias[0, model.config.eos_token_id] += 3
    return of(model)


@pytest.mark.parametrize(
    "forced",
    [{}, {"forced_bos_token_id": 0}, {"forced_eos_token_id": 2}, {"forced_bos_token_id": 0, "forced_eos_token_id": 2}],
    ids=["unforced", "forced start", "forced end", "both"],
)
def test_tokens_are_pytorchs(forced: dict[str, int]) -> None:
    a = ends_early()
    x = batch(a.config, B=8, S=12)
    theirs = torch_greedy(a, x, max_length=14, **{"forced_bos_token_id": None, "forced_eos_token_id": None, **forced})
    ours = np.asarray(greedy(a.params, a.config, x["input_ids"], x["attention_mask"], max_length=14, **forced))
    np.testing.assert_array_equal(ours, theirs)
    if not forced:  # forced tokens can make all rows equally long
        lengths = (theirs != a.config.pad_token_id).sum(1)
        assert len(set(lengths)) > 1, f"the example is too simple, all rows have the same length: {lengths}"
        assert len(np.unique(theirs)) > 4, (
            f"the example is too simple, it has few different tokens: {np.unique(theirs)}"
        )


def test_cached_generation_gives_the_same_tokens() -> None:
    a = ends_early()
    x = batch(a.config, B=8, S=12)
    specification = np.asarray(greedy(a.params, a.config, x["input_ids"], x["attention_mask"], max_length=14))
    cached = generate(
        a.model, x["input_ids"], x["attention_mask"], max_length=14, num_beams=1, forced_eos_token_id=None
    ).sequences
    np.testing.assert_array_equal(specification[:, : cached.shape[1]], cached)
    assert (specification[:, cached.shape[1] :] == a.config.pad_token_id).all()
