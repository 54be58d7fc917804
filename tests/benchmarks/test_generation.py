"""benchmarks.generation reports figures and goals correctly, resumes a run, and leaves out rivals that fail."""

import json
import subprocess
import sys

import pytest
from bart_inference import load

from benchmarks import generation
from benchmarks.cells import CELLS, limit_of, measures_of, work_of
from benchmarks.checkpoints import TINY, fields_of
from benchmarks.counts import Machine
from benchmarks.report import geometric_mean, goals, table
from benchmarks.rivals import RivalFailed, before, padded
from support.widen import widen


def figures(pytorch=2.0, compiled=3.0, ctranslate2=1.5, share=0.5, equal=1.0, **others):
    ratios = {"ours": 1.0, "pytorch": pytorch, "pytorch-compiled": compiled, "ctranslate2": ctranslate2}
    rivals = {name: {"seconds": ratio, "ratio": ratio, "tokens_equal": equal} for name, ratio in ratios.items()}
    return {"rivals": rivals, "machine": {"share": share}, "same_steps": True, "others_cores": 0.02, **others}


def test_geometric_mean():
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_a_goal_is_held_against_the_faster_pytorch_and_named_where_missed():
    lines = goals({"a-beam4": figures(pytorch=4.0, compiled=4.0), "b-greedy": figures(pytorch=4.0, compiled=1.2)})
    assert lines[0] == "- ❌ PyTorch, the faster of eager and compiled, at least 1.3× in every cell: not b-greedy 1.20×"
    assert lines[1] == "- ✅ PyTorch at least 2.0× in geometric mean: 2.19×"
    assert lines[2] == "- ✅ PyTorch at least 2.5× in geometric mean, cells with beam4: 4.00×"


def test_a_cell_in_which_others_took_the_cores_is_marked():
    lines = table({"a": figures(), "b": figures(others_cores=0.4)})
    assert "| b (disturbed) |" in lines and "| a |" in lines


def test_a_cell_near_the_machines_limit_is_met_whatever_its_ratio():
    assert goals({"a": figures(ctranslate2=0.9, share=0.5)})[3].startswith("- ❌")
    assert goals({"a": figures(ctranslate2=0.9, share=0.86)})[3].startswith("- ✅")


@pytest.mark.parametrize(
    ("compared", "shown", "mark"),
    [
        ({}, "equal", "✅"),
        ({"equal": 0.5, "first_difference": {"margin": 3e-6}}, "near-tie (3e-06)", "✅"),
        ({"equal": 0.5, "first_difference": {"margin": 3e-3}}, "DIFFERENT", "❌"),
        ({"equal": 0.5, "first_difference": {"error": "…"}}, "DIFFERENT", "❌"),
    ],
)
def test_tokens_that_differ_count_unless_pytorch_nearly_tied(compared, shown, mark):
    cells = {"a": figures(**compared)}
    assert f"| {shown} |" in table(cells)
    assert goals(cells)[-1].startswith(f"- {mark}")


class FakeWorker:
    """Replaces the process of a rival and returns fixed figures; the one with the name "slow" fails."""

    load_seconds = 0.0
    asked: list[str] = []  # noqa: RUF012

    def __init__(self, name, folder):
        self.name = name

    def prepare(self, work, patience):
        if self.name == "slow":
            raise RivalFailed("no answer within 180 s")
        return self.run(patience)

    def run(self, patience):
        self.asked.append(self.name)
        if self.name == "machine":
            return {"seconds": 1.0, "bandwidth": 1e12, "throughput": 1e15}
        return {"seconds": 2.0 if self.name == "pytorch" else 1.0, "tokens": [[5] * 64], "peak_mb": 1}

    def cpu_seconds(self):
        return 0.0

    def close(self):
        pass


@pytest.fixture
def command(monkeypatch, tmp_path):
    monkeypatch.setattr(generation, "Worker", FakeWorker)
    monkeypatch.setattr(generation, "folder_of", lambda cache, name: cache / name)
    monkeypatch.setattr(FakeWorker, "asked", [])

    def run(*arguments):
        FakeWorker.asked.clear()
        monkeypatch.setattr(sys, "argv", ["generation.py", *arguments, "--record", str(tmp_path)])
        generation.main()
        return json.loads((tmp_path / "results.json").read_text())

    return run


def test_cells_run_singly_and_resume(command):
    cells = command("base-b1-greedy-s128", "--rivals", "ours,pytorch,machine")
    assert list(cells) == ["base-b1-greedy-s128"]
    assert cells["base-b1-greedy-s128"]["rivals"]["pytorch"]["ratio"] == 2.0
    assert cells["base-b1-greedy-s128"]["same_steps"]
    assert {"processor", "versions", "command"} <= set(cells["base-b1-greedy-s128"]["circumstances"])
    cells = command("base-b1-greedy", "--rivals", "ours,machine", "--rounds", "3")
    assert len(cells) == 3, "the two missing cells were not measured"
    assert "pytorch" in cells["base-b1-greedy-s128"]["rivals"], "the first cell was measured again"
    command("base-b1-greedy", "--rivals", "ours,machine")
    assert FakeWorker.asked == [], "cells that were complete are measured again"
    command("base-b1-greedy-s128", "--rivals", "ours,machine", "--again", "--rounds", "3")
    assert FakeWorker.asked == ["ours", "machine", "ours", "machine", "machine", "ours", "ours", "machine"]


def test_a_rival_that_fails_is_left_out_with_its_reason(command):
    cell = command("base-b1-greedy-s128", "--rivals", "ours,slow,machine")["base-b1-greedy-s128"]
    assert cell["failed"] == {"slow": "no answer within 180 s"} and list(cell["rivals"]) == ["ours"]


def test_every_cell_has_its_work_and_a_limit():
    for cell in CELLS:
        work = work_of(cell, TINY / "examples.jsonl")
        rows = [row for batch in work["batches"] for row in batch]
        assert len(work["batches"][0]) == cell.batch
        assert not cell.source or {len(row) for row in rows} == {cell.source}
        assert measures_of(cell, work)["step_bytes"] > 0
        seconds = [limit_of(cell, work, [[5] * n for _ in rows], Machine(1e10, 1e11)) for n in (10, 20)]
        assert 0 < seconds[0] <= seconds[1]


def test_the_wide_model_has_the_sizes_that_its_cost_is_counted_from():
    config = vars(widen(load(), 50265).config)
    for field, value in fields_of("wide").items():
        assert config.get(field, value) == value, field


def test_answers_end_before_the_end_token():
    assert before([7, 2, 1, 1], 2) == [7] and before([7, 8], 2) == [7, 8]


def test_batches_are_padded_on_the_right_with_their_masks():
    assert padded({"batches": [[[5], [6, 7]]], "pad_token_id": 1}) == [([[5, 1], [6, 7]], [[1, 0], [1, 1]])]


@pytest.mark.parametrize("module", ["benchmarks.rivals", "benchmarks.startup"])
def test_a_rivals_process_imports_only_what_it_needs(module):
    probe = f"import sys, {module}; print([m for m in ('jax', 'torch', 'ctranslate2', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
