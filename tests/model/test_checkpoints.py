"""Published checkpoints agree with PyTorch in every row of the report, and give outputs that others have published.

`pytest -m network` runs these tests. They download some gigabytes, and are skipped without the Hugging Face hub.
Generation and classification with published checkpoints are tested in tests/inference.
"""

import socket

import jax.numpy as jnp
import numpy as np
import pytest
from bart_inference import load, summarize
from bart_inference.tokenization import encode_text

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
    """tests/report.py compares everything; rows in float64 are left out for large models, which need much memory."""
    assert report.main([checkpoint] if checkpoint.endswith("base") else [checkpoint, "--float32"]) == 0


def test_a_masked_decoder_prompt_of_bart_large() -> None:
    """Repeats transformers' test_decoder_attention_mask: the decoder's prompt has padding that its mask hides."""
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


def test_summary_of_bart_large_xsum() -> None:
    """Repeats transformers' test_xsum_summarization_same_as_fairseq."""
    article = (
        " PG&E stated it scheduled the blackouts in response to forecasts for high winds amid dry conditions. The aim "
        "is to reduce the risk of wildfires. Nearly 800 thousand customers were scheduled to be affected by the "
        "shutoffs which were expected to last through at least midday tomorrow."
    )
    options = {"num_beams": 2, "max_length": 62, "min_length": 11, "length_penalty": 1.0, "no_repeat_ngram_size": 3}
    summary = summarize(load("facebook/bart-large-xsum"), article, early_stopping=True, **options)
    expected = "California's largest power company has begun shutting off electricity to thousands of customers in the"
    assert summary == f"{expected} state."


def test_bart_large_needs_its_forced_start() -> None:
    """Outputs published in transformers issue 8782: from "He go to school." bart-large generates the first word twice.

    bart-base generates <s> (id 0) after the start token (id 2) by itself, and then copies the sentence. bart-large
    copies it only if <s> is forced.
    """
    ids = np.array([[0, 894, 213, 7, 334, 479, 2]])
    generated = {}
    for name, forced in (("base", None), ("large", None), ("large", 0)):
        model = load(f"facebook/bart-{name}")
        [row] = np.asarray(greedy(model.params, model.config, ids, np.ones_like(ids), 20, forced_bos_token_id=forced))
        generated[name, forced] = row.tolist()
    assert generated["base", None][:8] == [2, 0, 894, 213, 7, 334, 479, 2]
    assert generated["large", None][:5] == [2, 894, 894, 213, 7]
    assert generated["large", 0][:5] == [2, 0, 894, 213, 7]
