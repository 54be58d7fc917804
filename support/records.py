"""Records of measurements: the figures of each part of a benchmark, saved when the part is finished.

A command that is given again goes on where it was cut off: it leaves out the parts that its record has.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


class Record:
    """results.json in a folder: the figures of each part by its name, in the order of `names`."""

    def __init__(self, folder: pathlib.Path, names: Sequence[str]) -> None:
        self.path = folder / "results.json"
        self.names = names
        self.figures: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, name: str, figures: Mapping[str, Any]) -> None:
        """Saves a part's figures. The file is replaced whole, so that a run that is killed leaves the old one."""
        self.figures[name] = figures
        self.figures = self.of(self.names)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(self.figures, indent=1) + "\n")
        os.replace(unfinished, self.path)

    def of(self, names: Sequence[str]) -> dict[str, Any]:
        """The figures of those parts that have been measured."""
        return {name: self.figures[name] for name in names if name in self.figures}


def chosen(names: Sequence[str], parts: Sequence[str]) -> list[str]:
    """The names that contain one of the parts; all of them without any part. ValueError if none does."""
    found = [name for name in names if not parts or any(part in name for part in parts)]
    if not found:
        raise ValueError(f"no name contains any of {parts}; the names: {', '.join(names)}")
    return found


class Command:
    """The command line of a benchmark that measures parts: their names, --record, --report, --again and its own flags.

    command = Command(__doc__, names, "cell")
    command.parser.add_argument("--rounds", …)
    command.parse()
    for name in command.missing():
        command.record.add(name, …)
    print(report(command.figures()))
    """

    def __init__(self, description: str | None, names: Sequence[str], part: str) -> None:
        """names: of all parts; part: what a part is called."""
        raw = argparse.RawDescriptionHelpFormatter
        self.parser = argparse.ArgumentParser(description=description, formatter_class=raw)
        only = f"only those whose names contain one of these, of {', '.join(names)}"
        self.parser.add_argument("parts", nargs="*", metavar=part, help=only)
        self.parser.add_argument("--record", type=pathlib.Path, required=True, help="folder of results.json")
        self.parser.add_argument("--report", action="store_true", help="print what the record holds, measure nothing")
        self.parser.add_argument("--again", action="store_true", help="also measure what the record has already")
        self.names = names

    def parse(self) -> argparse.Namespace:
        self.given = self.parser.parse_args()
        try:
            self.chosen = chosen(self.names, self.given.parts)
        except ValueError as error:
            self.parser.error(str(error))
        self.record = Record(self.given.record, self.names)
        return self.given

    def missing(self) -> list[str]:
        """The chosen parts that are to be measured now."""
        if self.given.report:
            return []
        return [name for name in self.chosen if self.given.again or name not in self.record.figures]

    def figures(self) -> dict[str, Any]:
        """The chosen parts' figures."""
        return self.record.of(self.chosen)
