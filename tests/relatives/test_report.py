"""The reports of BERT, RoBERTa and T5 are all ✅ for random weights in every published shape."""

import jax
import pytest

from tests import report
from tests.relatives import report as relatives

EXPECTED_ROWS = (
    "parameters, converted and back",
    "logits, float32",
    "loss, float32",
    "logits, float64",
    "loss, float64",
    "gradient, worst tensor / whole norm, float64",
    "gradient, our distance / PyTorch's, float32",
)
ORDINARY = ("bert-tiny", "roberta-tiny", "t5-tiny", "flan-t5-tiny", "t5-small")
SHAPES = [name if name in ORDINARY else pytest.param(name, marks=pytest.mark.slow) for name in relatives.SHAPES]


@pytest.mark.parametrize("shape", SHAPES)
def test_report_is_all_green(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = report.main([shape])
    table = capsys.readouterr().out
    assert status == 0 and "❌" not in table, table
    family, _ = relatives.SHAPES[shape]
    by_family = {"bert": "logits of the one line, float32", "roberta": "gradient of the key biases, float64"}
    for row in (*EXPECTED_ROWS, by_family.get(family, "generated tokens, greedy")):
        assert f"✅ {row}" in table, f"{row} is missing in\n{table}"


@pytest.mark.parametrize("shape", ["bert-tiny", "t5-tiny"])
def test_a_wrong_weight_shows(shape: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One entry of one matrix is wrong by 0.01."""
    pair = relatives.open_checkpoint(shape, relatives.SHAPES[shape][0])
    params = jax.tree.map(lambda leaf: leaf, pair.params)
    layers = params["layers"] if "layers" in params else params["decoder"]["layers"]
    layers["fc1"]["weight"] = layers["fc1"]["weight"].at[1, 2, 3].add(0.01)
    monkeypatch.setattr(relatives, "open_checkpoint", lambda *_: pair._replace(params=params))
    assert report.main([shape, "--float32"]) == 1
    table = capsys.readouterr().out
    assert "❌ parameters, converted and back" in table and "❌ logits, float32" in table
