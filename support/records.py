"""Saves the figures of each part of a benchmark in a record when the part is finished.

A command that was interrupted can be run again, and measures only the parts that its record does not have.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


class Record:
    """The file results.json in a folder: name of a part -> its figures, in the order of `names`."""

    def __init__(self, folder: pathlib.Path, names: Sequence[str]) -> None:
        self.path = folder / "results.json"
        self.names = names
        self.figures: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, name: str, figures: Mapping[str, Any]) -> None:
        """Saves a part's figures. The file is replaced in one step, so it stays whole if the process is killed."""
        self.figures[name] = figures
        self.figures = self.of(self.names)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(self.figures, indent=1) + "\n")
        os.replace(unfinished, self.path)

    def of(self, names: Sequence[str]) -> dict[str, Any]:
        """The figures of the parts with these names; parts that have not been measured are left out."""
        return {name: self.figures[name] for name in names if name in self.figures}


def chosen(names: Sequence[str], parts: Sequence[str]) -> list[str]:
    """The names that contain one of `parts`, or all names if it is empty. Raises ValueError if no name does."""
    if not parts:
        return list(names)
    matching = [name for name in names if any(part in name for part in parts)]
    if not matching:
        raise ValueError(f"no name contains any of {parts}; the names: {', '.join(names)}")
    return matching


class Command:
    """The command line of a benchmark that measures parts: their names, --record, --report and --again.

    A benchmark adds its own flags before `parse`:

    command = Command(__doc__, names, "cell")
    command.parser.add_argument("--rounds", …)
    command.parse()
    for name in command.missing():
        command.record.add(name, …)
    print(report(command.figures()))
    """

    def __init__(self, description: str | None, names: Sequence[str], part: str) -> None:
        """`names` are the names of all parts. `part` is the word for a part in the help, such as "cell"."""
        raw = argparse.RawDescriptionHelpFormatter
        self.parser = argparse.ArgumentParser(description=description, formatter_class=raw)
        only = f"measure only those whose names contain one of these strings; the names: {', '.join(names)}"
        self.parser.add_argument("parts", nargs="*", metavar=part, help=only)
        self.parser.add_argument("--record", type=pathlib.Path, required=True, help="folder of results.json")
        self.parser.add_argument("--report", action="store_true", help="print the record and measure nothing")
        self.parser.add_argument("--again", action="store_true", help="measure recorded parts again")
        self.names = names

    def parse(self) -> argparse.Namespace:
        """Reads the command line. An error ends the process with status 2."""
        self.arguments = self.parser.parse_args()
        try:
            self.chosen = chosen(self.names, self.arguments.parts)
        except ValueError as error:
            self.parser.error(str(error))
        self.record = Record(self.arguments.record, self.names)
        return self.arguments

    def missing(self) -> list[str]:
        """The chosen parts that must be measured."""
        if self.arguments.report:
            return []
        if self.arguments.again:
            return self.chosen
        return [name for name in self.chosen if name not in self.record.figures]

    def figures(self) -> dict[str, Any]:
        """The figures of the chosen parts; parts that have not been measured are left out."""
        return self.record.of(self.chosen)
