"""benchmarks.startup reports the median of several starts of each contender without the first."""

import json
import sys

from benchmarks import startup


class FakeWorker:
    def __init__(self, name, folder):
        assert name == "ours"

    def prepare(self, work):
        return {"compile_seconds": float(len(work["batches"][0]))}

    def close(self):
        pass


def test_the_command_measures_saves_and_reports(monkeypatch, tmp_path, capsys):
    asked = []

    def measured(contender, folder, work, cache):
        asked.append((folder.name, contender))
        turn = asked.count((folder.name, contender))
        other = contender == "ctranslate2-int8"
        return {"seconds": 99.0 if turn == 1 else turn, "peak_mb": 7.0, "cpu_seconds": 1.0, "tokens": [[5, other]]}

    def first_answer(folder, model, cache, code):
        started.append(model)
        seconds = started.count(model)
        return {"listening": 0.5, "seconds": seconds, "cpu_seconds": 2.0, "peak_mb": 7.0, "tokens": [5]}

    started = []
    monkeypatch.setattr(startup, "first_answer", first_answer)
    monkeypatch.setattr(startup, "demo", lambda rounds, cache, code: {"warm cache": {"seconds": 1.5}})
    monkeypatch.setattr(startup, "measured", measured)
    monkeypatch.setattr(startup, "folder_of", lambda cache, name: cache / name)
    monkeypatch.setattr(startup, "Worker", FakeWorker)
    monkeypatch.setattr(sys, "argv", ["startup.py", "--record", str(tmp_path)])
    startup.main()
    base = json.loads((tmp_path / "results.json").read_text())["base"]["contenders"]
    assert base["pytorch"]["all_seconds"] == [2, 3, 4] and base["pytorch"]["seconds"] == 3
    cold, warm = asked.index(("tiny", "ours-xla")), asked.index(("tiny", "ours-xla, warm cache"))
    assert cold + 1 == warm, "the warm start does not follow the start that fills its cache"
    shown = capsys.readouterr().out
    assert "| ours-xla, warm cache | 3.00 | 7 | 1.0 | yes |" in shown
    assert "| ctranslate2-int8 | 3.00 | 7 | 1.0 | no |" in shown
    assert started == ["tiny"] * 6 + ["base"] * 6
    assert "| empty cache | 0.50 | 3.00 | 2.00 | 7.00 |" in shown, "not the medians of the first, third and fifth start"
    assert "| warm cache | 0.50 | 4.00 | 2.00 | 7.00 |" in shown
    assert "| warm cache | 1.50 |" in shown
    assert "| batch 8, 4 beams, source 1024 | 8.00 |" in shown
