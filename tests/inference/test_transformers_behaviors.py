"""Repeats tests of transformers' tests/models/bart/test_modeling_bart.py with our functions.

Each docstring begins with the name of the test in transformers. Other files repeat the rest: tests/model those of
forward, loss and different depths, test_heads.py those of the task heads, test_checkpoint.py those of saving and
loading, and test_generation_grid.py those of beam search.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bart_inference import Model, features, generate, load, score
from bart_inference.model import transformer
from bart_inference.model.cache import empty_cache
from bart_inference.model.transformer import decode_step, prefill

from bart_oneliner import forward, shift_right
from tests.inference.cases import checkpoint
from tests.twins import assert_close, batch, torch_logits, twin


def test_shift_tokens_right() -> None:
    """test_shift_tokens_right: the start token comes first, and each row loses its last token."""
    config = checkpoint("uneven")[0].config
    labels = jnp.array([[71, 82, 18, 33, 2, 1, 1], [68, 34, 26, 58, 30, 82, 2]])
    shifted = shift_right(labels, config)
    assert shifted.shape == labels.shape
    assert int((shifted == 1).sum()) == int((labels == 1).sum()) - 1
    assert shifted[:, 0].tolist() == [2, 2]
    assert shifted[:, 1:].tolist() == labels[:, :-1].tolist()


def test_generate_beam_search_shape() -> None:
    """test_generate_beam_search: beam search with sampling obeys no_repeat_ngram_size and max_length."""
    generated = generate(
        checkpoint("uneven")[1], [[71, 82, 2], [68, 34, 2]], num_beams=2, num_return_sequences=1, do_sample=True,
        no_repeat_ngram_size=3, max_length=20,
    )  # fmt: skip
    assert generated.sequences.shape == (2, generated.lengths.max())
    assert generated.lengths.max() <= 20
    for row, length in zip(generated.sequences.tolist(), generated.lengths, strict=True):
        assert length > 10, f"an answer of {length} tokens is too short to repeat three tokens"
        triples = list(zip(row[:length], row[1:length], row[2:length], strict=False))
        assert len(set(triples)) == len(triples), f"three successive tokens occur twice in {row}"


def test_tied_head_after_resizing_the_vocabulary(tmp_path: Path) -> None:
    """test_resize_embeddings_persists_embeddings_type, test_tied_weights: a resized embedding is still the head's."""
    larger = twin()
    larger.torch.resize_token_embeddings(107, mean_resizing=False)
    larger.torch.save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.params["shared"].shape[0] == model.params["final_logits_bias"].shape[0] == 107
    x = batch(model.config)
    x["input_ids"][0, 1] = x["decoder_input_ids"][0, 1] = 106
    del x["labels"]
    assert_close(forward(model.params, model.config, **x), torch_logits(larger, x))


@pytest.mark.parametrize("masked", [False, True])
def test_cached_decoder_equals_uncached(masked: bool) -> None:
    """test_decoder_model_past and its variants: steps of one token give the logits of the whole target at once."""
    a, prepared = checkpoint("uneven")
    x = batch(a.config, B=3, S=11, T=9)
    del x["decoder_attention_mask"], x["labels"]
    if not masked:
        x["attention_mask"][:] = 1
    expected = torch_logits(a, x)
    source = prefill(prepared.weights, a.config, x["input_ids"], x["attention_mask"].astype(bool))
    cache = empty_cache(a.config, 3, 1, 16, jnp.float32)
    run = jax.jit(decode_step, static_argnums=1)
    for t in range(9):
        position = jnp.full(3, t, jnp.int32)
        logits, cache = run(prepared.weights, a.config, source, cache, x["decoder_input_ids"][:, t : t + 1], position)
        assert_close(logits[:, 0], expected[:, t], what=f"step {t}")


@torch.no_grad()
def test_encoder_and_decoder_standalone() -> None:
    """test_encoder_decoder_model_standalone: encoder and decoder, called separately, give transformers' states."""
    a, prepared = checkpoint("deep-decoder")
    x = batch(a.config, B=3, S=11, T=7)
    ids, mask = torch.tensor(x["input_ids"]).long(), torch.tensor(x["attention_mask"])
    visible = x["attention_mask"].astype(bool)
    encoded = transformer.encode(prepared.weights, a.config, x["input_ids"], np.arange(11), visible)
    expected = a.torch.model.encoder(ids, attention_mask=mask)[0]
    assert_close(encoded, expected, what="encoder", where=x["attention_mask"][..., None] == 1)
    decoded = transformer.decode_target(
        prepared.weights, a.config, x["decoder_input_ids"], np.ones((3, 7), bool),
        transformer.project_cross_kv(prepared.weights, a.config, jnp.asarray(expected.numpy())),
        x["attention_mask"].astype(bool),
    )  # fmt: skip
    theirs = a.torch.model.decoder(
        torch.tensor(x["decoder_input_ids"]).long(), encoder_hidden_states=expected, encoder_attention_mask=mask
    )[0]
    assert_close(decoded, theirs, what="decoder")


@torch.no_grad()
def test_decoder_attention_mask() -> None:
    """test_decoder_attention_mask: no position attends to target positions that the mask hides."""
    a, prepared = checkpoint("uneven")
    x = batch(a.config, B=3, S=11, T=7)
    del x["labels"]
    x["decoder_attention_mask"][:, 1:3] = 0
    theirs = a.torch.model(**{name: torch.tensor(array).long() for name, array in x.items()}).last_hidden_state
    assert_close(features(prepared, **x).last_hidden_state, theirs)


def test_padding_invariance_of_generation() -> None:
    """test_mnli_inference, its second half: the same source with more padding gives the same result."""
    prepared = checkpoint("uneven")[1]
    ids = np.random.default_rng(0).integers(3, 99, (1, 9))
    wide = np.pad(ids, ((0, 0), (0, 20)), constant_values=1)
    a = generate(prepared, ids, num_beams=3, max_length=24)
    b = generate(prepared, wide, (np.arange(29) < 9)[None], num_beams=3, max_length=24)
    assert np.array_equal(a.sequences, b.sequences)
    assert_close(a.sequences_scores, b.sequences_scores)


def test_generation_in_half_precision() -> None:
    """test_generate_fp16: the bfloat16 model's log-probabilities are near those of the float32 model for its tokens."""
    a, prepared = checkpoint("uneven")
    half = Model(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), a.params), *list(a.model)[1:])
    ids = [[71, 82, 2], [68, 34, 2]]
    for beams in (1, 3):
        generated = generate(half, ids, num_beams=beams, max_length=20)
        compared = (np.arange(generated.sequences.shape[1]) < generated.lengths[:, None])[:, 1:]
        compared[np.arange(2), generated.lengths - 2] = False  # a forced end token has log-probability 0
        expected = score(prepared, ids, None, np.where(compared, generated.sequences[:, 1:], -100))
        assert compared.sum() > 20, "too few tokens to compare"
        assert_close(generated.log_probs[:, 1:], expected, tolerance=0.1, what=f"{beams} beams", where=compared)
