"""The published checkpoints, against PyTorch and against the values that transformers' own BART tests publish.

`pytest -m network` where the Hugging Face hub can be reached, else skipped. Some gigabytes of downloads. The tests of
transformers are its tests/models/bart/test_modeling_bart.py, whose tolerance is 1e-3.
"""

import socket

import jax.numpy as jnp
import numpy as np
import pytest
from bart_inference import classify, features, fill_mask, load, summarize
from bart_inference.tokenization import decode_text, encode_text

from bart_oneliner import decode, encode, greedy, lm_head
from tests import report

pytestmark = pytest.mark.network

CHECKPOINTS = [
    "facebook/bart-base",
    "facebook/bart-large",
    "facebook/bart-large-cnn",
    "facebook/bart-large-xsum",
    "facebook/bart-large-mnli",
    "sshleifer/distilbart-cnn-12-6",
]


@pytest.fixture(scope="module", autouse=True)
def hub() -> None:
    try:
        socket.create_connection(("huggingface.co", 443), timeout=10).close()
    except OSError as error:
        pytest.skip(f"the Hugging Face hub cannot be reached: {error}")


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_report_is_all_green(checkpoint: str) -> None:
    """Parameters, logits, the one line, generations and gradients; float64 too where memory is no question."""
    assert report.main([checkpoint] if checkpoint.endswith("base") else [checkpoint, "--float32"]) == 0


def test_hidden_states_of_bart_large() -> None:
    """test_inference_no_head: BartModel, whose decoder reads its source shifted right."""
    ids = np.array([[0, 31414, 232, 328, 740, 1140, 12695, 69, 46078, 1588, 2]])
    hidden = features(load("facebook/bart-large"), ids).last_hidden_state
    published = [[0.7144, 0.8143, -1.2813], [0.7144, 0.8143, -1.2813], [-0.0467, 2.5911, -2.1845]]
    np.testing.assert_allclose(hidden[0, :3, :3], published, rtol=1e-3, atol=1e-3)


def test_masks_of_bart_base_and_bart_large() -> None:
    """test_base_mask_filling and test_large_mask_filling."""
    text = " I went to the <mask>."
    [base] = fill_mask(load("facebook/bart-base"), text)
    assert " bathroom" in [filled.token_str for filled in base]
    [large] = fill_mask(load("facebook/bart-large"), text)
    assert [filled.token_str for filled in large] == [" bathroom", " gym", " wrong", " movies", " hospital"]


def test_logits_of_bart_large_mnli() -> None:
    """test_mnli_inference: the published logits, and padding that does not change the others."""
    second = [0, 31414, 232, 328, 740, 1140, 69, 46078, 1588, 2]
    ids = np.array([[0, 31414, 232, 328, 740, 1140, 12695, 69, 46078, 1588, 2], [*second, 1]])
    model = load("facebook/bart-large-mnli")
    logits = classify(model, ids, ids != 1)
    np.testing.assert_allclose(logits[0], [0.1907, 1.4342, -1.0289], atol=1e-3)
    np.testing.assert_allclose(logits[1], classify(model, np.array([second]))[0], atol=1e-5)


def test_summary_of_bart_large_xsum() -> None:
    """test_xsum_summarization_same_as_fairseq."""
    article = (
        " PG&E stated it scheduled the blackouts in response to forecasts for high winds amid dry conditions. The aim "
        "is to reduce the risk of wildfires. Nearly 800 thousand customers were scheduled to be affected by the "
        "shutoffs which were expected to last through at least midday tomorrow."
    )
    options = {"num_beams": 2, "max_length": 62, "min_length": 11, "length_penalty": 1.0, "no_repeat_ngram_size": 3}
    summary = summarize(load("facebook/bart-large-xsum"), article, early_stopping=True, **options)
    expected = "California's largest power company has begun shutting off electricity to thousands of customers in the"
    assert summary == f"{expected} state."


def test_a_masked_decoder_prompt_of_bart_large() -> None:
    """test_decoder_attention_mask: padding inside the decoder's prompt, hidden by its mask; greedy over forward."""
    model = load("facebook/bart-large")
    ids = jnp.array([encode_text(model.tokenizer, "UN Chief Says There Is No <mask> in Syria")])
    mask = jnp.ones_like(ids)
    memory = encode(model.params, model.config, ids, mask)
    written = [2, 1, 1, 1, 0]
    while written[-1] != 2 and len(written) < 25:
        target = jnp.array([written])
        hidden = decode(model.params, model.config, target, memory, mask, target != 1)
        written.append(int(lm_head(model.params, hidden)[0, -1].argmax()))
    text = model.tokenizer.decode(written, skip_special_tokens=False)
    assert text == "</s><pad><pad><pad><s>UN Chief Says There Is No Plan B for Peace in Syria</s>"


def test_bart_large_needs_its_forced_start() -> None:
    """transformers issue 15559: bart-large does not write <s> after its start token; when it is forced to, it fills."""
    model = load("facebook/bart-large")
    ids = np.array([encode_text(model.tokenizer, "UN Chief Says There Is No <mask> in Syria")])
    arguments = (model.params, model.config, ids, np.ones_like(ids))
    (forced,) = np.asarray(greedy(*arguments, max_length=20, forced_bos_token_id=0))
    (free,) = np.asarray(greedy(*arguments, max_length=20))
    assert decode_text(model.tokenizer, forced).startswith("UN Chief Says There Is No")
    assert free[1] != 0, "bart-large writes <s> by itself"
