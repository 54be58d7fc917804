"""`score` gives PyTorch's log-probabilities of a target's tokens, and they depend on source and target alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bart_inference import load, prepare, score
from bart_inference.checkpoint import embedded
from bart_inference.model import onednn
from bart_inference.tasks import score as module
from bart_inference.tokenization import encode_text, pad
from transformers import BartForConditionalGeneration

from bart_oneliner import loss
from tests.inference.cases import checkpoint
from tests.inference.folders import TEXTS
from tests.twins import assert_close, batch

LAYOUTS = ["cpu", pytest.param("onednn", marks=pytest.mark.skipif(not onednn.available(), reason="no oneDNN here"))]


@torch.no_grad()
def torch_scores(model: BartForConditionalGeneration, x: dict[str, np.ndarray]) -> np.ndarray:
    """PyTorch's log-probability of each label, 0 where the label is -100."""
    logits = model(**{name: torch.tensor(x[name]).long() for name in ("input_ids", "attention_mask", "labels")}).logits
    labels = torch.tensor(x["labels"]).long()
    log_probs = torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return np.where(x["labels"] == -100, 0.0, log_probs.numpy())


def arguments(x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: x[name] for name in ("input_ids", "attention_mask", "labels")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_of_the_embedded_checkpoint_equal_pytorch(layout: str) -> None:
    """Three texts have a likely target, an unlikely one, and one in which a label is -100.

    PyTorch computes in float64 here, because its float32 results differ from its float64 ones by up to 1.1e-5.
    """
    prepared = prepare(load(), layout)
    theirs = BartForConditionalGeneration.from_pretrained(embedded(), dtype=torch.float64).eval()
    ids, mask = pad([encode_text(prepared.tokenizer, text) for text in TEXTS[:3]], prepared.config.pad_token_id)
    targets = [encode_text(prepared.tokenizer, text) for text in (TEXTS[0], "a library for reading files", TEXTS[1])]
    width = max(map(len, targets))
    labels = np.array([[*row, *[-100] * (width - len(row))] for row in targets])
    labels[2, 1] = -100  # for a label of -100, the decoder's input has a padding token one position later
    x = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    ours = score(prepared, **x)
    assert ours.dtype == np.float32 and ours.shape == labels.shape
    np.testing.assert_allclose(ours, torch_scores(theirs, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["uneven", "wide"])
def test_scores_of_random_checkpoints_equal_pytorch(name: str) -> None:
    twin, prepared = checkpoint(name)
    x = batch(twin.config, B=5, S=11, T=19)
    assert_close(score(prepared, **arguments(x)), torch_scores(twin.torch, x))


def test_scores_add_up_to_the_loss() -> None:
    twin, prepared = checkpoint("uneven")
    x = batch(twin.config, B=3, S=11, T=7)
    ours = score(prepared, **arguments(x))
    assert_close(-ours.sum() / (x["labels"] != -100).sum(), loss(twin.params, twin.config, **arguments(x)))


def test_neither_later_labels_nor_other_rows_nor_padding_change_a_score() -> None:
    _, prepared = checkpoint("uneven")
    x = batch(prepared.config, B=3, S=11, T=9)
    x["labels"][0, 5:] = 7
    whole = score(prepared, **arguments(x))
    alone = score(prepared, x["input_ids"][:1], x["attention_mask"][:1], x["labels"][:1, :5])
    assert_close(alone[0], whole[0, :5], tolerance=1e-6)
    wider = {name: np.pad(a, ((0, 0), (0, 30))) for name, a in arguments(x).items() if name != "labels"}
    assert_close(score(prepared, **wider, labels=x["labels"]), whole, tolerance=1e-6)


def test_logits_that_are_computed_piece_by_piece_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _, prepared = checkpoint("uneven")
    x = arguments(batch(prepared.config, B=3, S=11, T=9))
    whole = score(prepared, **x)
    monkeypatch.setattr(module, "POSITIONS", 8)
    module.run_score.clear_cache()
    in_blocks = score(prepared, **x)
    module.run_score.clear_cache()
    assert_close(in_blocks, whole, tolerance=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": []}, r"labels must be \(batch, length\) and not empty, got shape \(0,\)"),
        ({"labels": [[5, 6], [7]]}, "labels must be rows of one length"),
        ({"labels": [[5, 6]]}, "labels has 1 rows, input_ids 2"),
        ({"labels": [[5, -1], [5, 6]]}, "labels has the id -1, the vocabulary goes from 0 to 98"),
        ({"labels": [[5, 99], [5, 6]]}, "labels has the id 99, the vocabulary goes from 0 to 98"),
        ({"labels": [[0.5], [1.5]]}, "labels must be integers, got float64"),
        ({"labels": [[5] * 49] * 2}, "labels has 49 positions, the position table 48"),
        ({"input_ids": [[5, 99], [5, 6]]}, "input_ids has the id 99"),
        ({"attention_mask": [[1], [1]]}, r"attention_mask has shape \(2, 1\), input_ids \(2, 2\)"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    _, prepared = checkpoint("uneven")
    x: dict[str, Any] = {"input_ids": [[5, 6], [7, 8]], "attention_mask": None, "labels": [[5, 6], [7, 8]]}
    with pytest.raises(ValueError, match=message):
        score(prepared, **(x | change))
