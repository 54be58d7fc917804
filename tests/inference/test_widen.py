"""A model that support/widen.py widened has the logits and generates the tokens of the original."""

from __future__ import annotations

import numpy as np
from bart_inference import generate, load, prepare
from bart_inference.tokenization import encode_text

from bart_oneliner import forward
from support.widen import NEVER_CHOSEN, widen


def test_a_widened_model_writes_the_tokens_of_the_original() -> None:
    model = load()
    wide = widen(model, vocab_size=9000)
    assert model.tokenizer is not None
    ids = np.array([encode_text(model.tokenizer, "Python bindings for the Ice framework, a network framework.")])
    for beams in (1, 4):
        original, widened = (generate(prepare(m), ids, num_beams=beams) for m in (model, wide))
        assert np.array_equal(original.sequences, widened.sequences)
    target = original.sequences
    mask = np.ones_like(ids)
    logits = np.asarray(forward(model.params, model.config, ids, mask, target))
    wide_logits = np.asarray(forward(wide.params, wide.config, ids, mask, target))
    np.testing.assert_allclose(wide_logits[..., : logits.shape[-1]], logits, atol=1e-4)
    assert (wide_logits[..., logits.shape[-1] :] == NEVER_CHOSEN).all()
