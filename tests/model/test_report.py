"""The report is all ✅ for correct weights, and its exit status is 1 for wrong ones."""

from typing import Any

import jax
import pytest
from bart_inference import Model

from tests import report
from tests.twins import Twin

EXPECTED_ROWS = (  # some rows of every report
    "parameters, converted and back",
    "logits, float32",
    "logits of the one line, float32",
    "generated tokens, greedy",
    "generated tokens, 4 beams",
    "scores, 4 beams",
    "loss, float32",
    "gradient, worst tensor / whole norm, float64",
    "gradient of the key biases, float64",
    "gradient, our distance / PyTorch's, float32",
)


SLOW = [pytest.param([shape], marks=pytest.mark.slow) for shape in report.SHAPES]


@pytest.mark.parametrize("arguments", [[], *SLOW], ids=lambda arguments: " ".join(arguments) or "embedded")
def test_report_is_all_green(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status = report.main(arguments)
    table = capsys.readouterr().out
    assert status == 0 and "❌" not in table, table
    for row in EXPECTED_ROWS:
        assert f"✅ {row}" in table, f"{row} is missing in\n{table}"
    for name in ("jax", "torch", "transformers"):
        assert f"{name} " in table.splitlines()[1]


def test_a_wrong_weight_shows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One entry of one matrix is wrong by 0.01."""
    pair, model = report.open_checkpoint("tiny")

    def damaged(checkpoint: Any) -> tuple[Twin, Any]:
        params = jax.tree.map(lambda leaf: leaf, pair.params)
        fc1 = params["decoder"]["layers"]["fc1"]
        fc1["weight"] = fc1["weight"].at[1, 2, 3].add(0.01)
        return pair._replace(params=params), Model(params, *list(model)[1:])

    monkeypatch.setattr(report, "open_checkpoint", damaged)
    assert report.main(["tiny", "--float32"]) == 1
    table = capsys.readouterr().out
    assert "❌ parameters, converted and back" in table and "❌ logits, float32" in table
    assert table.splitlines()[-1].startswith("❌")
