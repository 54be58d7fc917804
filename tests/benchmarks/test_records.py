"""A record is saved part by part in the order of its names, and a command measures the missing parts."""

import json
import sys

import pytest

from support.records import Command, Record

NAMES = ["first-a", "first-b", "second"]


@pytest.fixture
def command(monkeypatch, tmp_path):
    def parsed(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, "--record", str(tmp_path)])
        command = Command("What is measured.", NAMES, "part")
        command.parse()
        return command

    return parsed


def test_parts_are_saved_in_the_order_of_the_names_and_read_again(tmp_path):
    record = Record(tmp_path / "new", NAMES)
    record.add("second", {"seconds": 2})
    record.add("first-a", {"seconds": 1})
    again = Record(tmp_path / "new", NAMES)
    assert list(again.figures.items()) == [("first-a", {"seconds": 1}), ("second", {"seconds": 2})]
    assert [path.name for path in again.path.parent.iterdir()] == ["results.json"]


def test_a_command_measures_the_missing_parts_of_its_record(command):
    assert command().missing() == NAMES and command("first").missing() == ["first-a", "first-b"]
    command().record.add("first-b", {"seconds": 1})
    assert command("first").missing() == ["first-a"]
    assert command("first", "--again").missing() == ["first-a", "first-b"]
    assert command("--report").missing() == [] and command("--report").figures() == {"first-b": {"seconds": 1}}


def test_a_name_that_no_part_contains_is_refused(command, capsys):
    with pytest.raises(SystemExit):
        command("third")
    assert "no name contains any of ['third']; the names: first-a, first-b, second" in capsys.readouterr().err


def test_a_record_that_cannot_be_written_whole_stays_as_it_was(tmp_path):
    record = Record(tmp_path, NAMES)
    record.add("second", {"seconds": 2})
    with pytest.raises(TypeError):
        record.add("first-a", {"seconds": object()})
    assert json.loads(record.path.read_text()) == {"second": {"seconds": 2}}
