"""Finds random changes to the code that no test notices: `python -m tests.random_mutations --seed 1 --resume FILE`.

Each changed version of a file is a mutant. cosmic-ray's operators make them: another operator or comparison, a number
that is one larger or smaller, a negated condition, a loop without iterations, a removed decorator. The seed decides
which places in the code are changed, and which of the changes that are possible there is made. For each mutant, the
tests that execute the changed line run, the fastest first, up to the first failure. A test that hangs counts as a
failure. The tests run in a copy of the files that git tracks.

FILE gets one line of JSON for each mutant. A second run with the same FILE continues where the first one stopped, and
repeats mutants whose lines were deleted from FILE. Four other files and folders are kept beside it: FILE.coverage
(which test executes which line), FILE.seconds (how long each test takes), FILE.tree (the copy) and FILE.compiled (XLA
programs). Delete these four when the code has changed. tests/equivalent_mutations.json lists mutants that change
nothing that a test could see, each with the reason. The exit status is 0 if every other mutant was caught.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import functools
import importlib
import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest
from cosmic_ray.ast import Visitor, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
SHARES = {  # folder -> percentage of the mutants
    "inference/bart_inference/generation": 30,
    "server/bart_server/scheduling": 30,
    "server/bart_server/services": 22,
    "server/bart_server/transport": 18,
}
TESTS = {  # test files that run the code of SHARES in their own process and are quick enough to be repeated
    "inference": ["options", "sampling", "golden", "lookup", "invariance", "generation_grid", "summarize"],
    "server": [
        *("admission", "fairness", "scheduler", "workers", "store", "session", "runtime", "call", "conversion"),
        *("service", "faults", "operations", "security", "reading", "transport", "without_transport"),
    ],
}
IMPORTS = [  # packages of others that the tests import
    "google.rpc.error_details_pb2", "grpc.aio", "grpc_health.v1.health_pb2_grpc", "grpc_reflection.v1alpha.reflection",
    "hypothesis.strategies", "jax.numpy", "opentelemetry.sdk.trace.export", "prometheus_client", "safetensors.numpy",
    "scipy.stats", "tokenizers", "torch", "transformers.models.bart.modeling_bart", "trustme",
]  # fmt: skip
PATHS = ["", "inference", "server", "training", "relatives", "clients/python"]  # the import path, as in pyproject.toml
# cosmic-ray's operators on variables need arguments and are left out.
OPERATORS = {name: get_operator(name)() for name in operator_names() if "Variable" not in name}
EQUIVALENT = Path(__file__).with_name("equivalent_mutations.json")


class Mutant(NamedTuple):
    path: str  # of the changed file, relative to the repository
    line: int
    operator: str  # its name in cosmic-ray
    old: str  # the changed lines before the change
    new: str  # and after it
    code: str  # the whole mutated file

    def record(self, **result: Any) -> dict[str, Any]:
        return {"path": self.path, "line": self.line, "old": self.old, "new": self.new, **result}


class Positions(Visitor):
    """Visits the syntax tree of a file and collects the changes that are possible at each place of it.

    `changes` maps a place (start, end) to pairs (name of an operator, number of the occurrence in the file), which
    cosmic-ray's mutate_code takes.
    """

    def __init__(self) -> None:
        self.changes: dict[Any, list[tuple[str, int]]] = defaultdict(list)
        self._occurrences: dict[str, int] = defaultdict(int)

    def visit(self, node: Any) -> Any:
        for name, operator in OPERATORS.items():
            for position in operator.mutation_positions(node):
                self.changes[position].append((name, self._occurrences[name]))
                self._occurrences[name] += 1
        return node


@functools.cache
def without_annotations(code: str) -> str:
    """The code's syntax tree as text, without annotations: changes of these have no effect at run time."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        for field in {"annotation", "returns"} & set(node._fields):
            setattr(node, field, ast.Constant(None))
    return ast.dump(tree)


def mutant_at(path: str, line: int, name: str, occurrence: int) -> Mutant | None:
    """Makes one change; returns None if the result is not valid Python or only an annotation differs."""
    source = (ROOT / path).read_text(encoding="utf-8")
    code = mutate_code(source, OPERATORS[name], occurrence)
    try:
        if code is None or without_annotations(code) == without_annotations(source):
            return None
    except SyntaxError:
        return None
    difference = [text for text in difflib.ndiff(source.splitlines(), code.splitlines()) if text[:2] in ("- ", "+ ")]
    old, new = ("\n".join(text[2:].strip() for text in difference if text[0] == sign).strip() for sign in "-+")
    return Mutant(path, line, name, old, new, code)


def draw(seed: int, count: int, folders: list[str]) -> list[Mutant]:
    """Draws mutants of the given folders, at most one at each place; each folder gets its SHARES percent of `count`."""
    mutants: list[Mutant] = []
    for folder in folders:
        chance, places = random.Random(f"{seed} {folder}"), []
        for path in sorted((ROOT / folder).rglob("*.py")):
            visitor = Positions()
            visitor.walk(get_ast(path.read_text(encoding="utf-8")))
            places += [(str(path.relative_to(ROOT)), place, changes) for place, changes in visitor.changes.items()]
        chance.shuffle(places)
        wanted = len(mutants) + round(count * SHARES[folder] / 100)
        for path, place, changes in places:
            chance.shuffle(changes)
            possible = (mutant_at(path, place[0][0], *change) for change in changes)
            if len(mutants) < wanted and (mutant := next(filter(None, possible), None)):
                mutants.append(mutant)
    return mutants


def copy_tree(results: Path) -> Path:
    """Copies the files that git tracks to FILE.tree, and sets the environment variables that tests need there."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tree = Path(f"{results}.tree")
    for name in filter(None, tracked.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": f"{results}.compiled",  # most programs are the same for all mutants
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": os.pathsep.join(str(tree / path) for path in PATHS),
    }
    return tree


class Reporter:
    """A pytest plugin that reports on a pipe: each test's start, and the outcome and seconds of each of its phases.

    A line is JSON: [outcome, test, seconds, first line of the error]. The last line's outcome is "ended".
    """

    def __init__(self, writer: int) -> None:
        self._writer = writer

    def tell(self, *line: Any) -> None:
        os.write(self._writer, (json.dumps(line) + "\n").encode())

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.tell("began", nodeid, 0, "")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.tell("failed" if report.failed else "passed", report.nodeid, report.duration, reason(report))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        # Reported here, because pytest may not end: a server that a failed test left can block its garbage collection.
        self.tell("ended", "", 0, f"pytest's status {int(exitstatus)}")

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.tell("failed", report.nodeid, 0, reason(report))


def reason(report: Any) -> str:
    lines = [line for line in str(report.longrepr or "").splitlines() if line.startswith("E ")]
    return lines[0][1:].strip()[:200] if lines else ""


class Contexts:
    """A pytest plugin that records which tests execute a line.

    A line is usually recorded under the name of the test that executes it. But a shared fixture is made, and a program
    is compiled, only in the first test that needs it, although later tests depend on it too. So lines that a shared
    fixture executes, and all lines that tests in tests/inference execute (which compile programs), are recorded under
    the name of the test file, which stands for every test in the file.
    """

    def __init__(self, measured: coverage.Coverage) -> None:
        self._measured = measured
        self._test = ""  # the test that is running

    def _switch(self, test: str, shared: bool) -> None:
        self._measured.switch_context(file_of(test) if shared or test.startswith("tests/inference") else test)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: Any) -> None:
        self._test = item.nodeid
        self._switch(self._test, False)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        self._switch(self._test, fixturedef.scope != "function")
        yield
        self._switch(self._test, False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._measured.stop()
        self._measured.save()


def run_tests(tree: Path, tests: list[str], limit: float, measured: Path | None = None) -> list[list[Any]]:
    """Runs tests in a forked process, for which the libraries are loaded already, for at most `limit` seconds.

    With `measured`, it writes to that file which test executes which line, and does not stop at a failure. Returns the
    lines that Reporter wrote; the last one's outcome is "ended", or "hung" if the limit was reached.
    """
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.setsid()
        os.chdir(tree)
        sys.dont_write_bytecode = not measured  # the next mutant could otherwise load the bytecode of this one
        os.environ |= {} if measured else {"PYTHONDONTWRITEBYTECODE": "1"}
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(1, 2)
        sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        plugins: list[Any] = [Reporter(writer)]
        options = ["-q", "-n", "0", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--rootdir", str(tree)]
        if not measured:
            options.append("-x")
        else:
            folders = [str(tree / folder) for folder in SHARES]
            measurement = coverage.Coverage(str(measured), source=folders, config_file=False)
            measurement.set_option("run:core", "ctrace")
            plugins.append(Contexts(measurement))
            measurement.start()
        pytest.main([*options, *tests], plugins=plugins)
        os._exit(0)
    os.close(writer)
    output, end = b"", time.monotonic() + limit
    while b'["ended"' not in output and select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        data = os.read(reader, 65536)
        output += data or b'["ended", "", 0, "the process died"]\n'
    lines = [json.loads(line) for line in output.splitlines()]
    if time.monotonic() >= end:
        lines.append(["hung", lines[-1][1] if lines else "", 0, f"{limit:.0f} s"])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    return lines


class Tests:
    """Knows which tests execute a line, and how long they take: measured once, without a mutant, and kept in files."""

    def __init__(self, tree: Path, results: Path, folders: list[str]) -> None:
        parts = {folder.partition("/")[0] for folder in folders}
        files = [f"tests/{part}/test_{name}.py" for part in sorted(parts) for name in TESTS[part]]
        lines, seconds = Path(f"{results}.coverage"), Path(f"{results}.seconds")
        if not seconds.exists():
            lines.unlink(missing_ok=True)
            measured = run_tests(tree, files, 3600, lines)
            failed = {test for outcome, test, _, _ in measured if outcome in ("failed", "hung")}
            if failed:
                print("these tests fail without a mutant and are left out:", *sorted(failed), sep="\n  ", flush=True)
            durations: dict[str, list[float]] = defaultdict(list)  # seconds of setup, call, teardown
            for outcome, test, duration, _ in measured:
                if outcome == "passed" and test not in failed:
                    durations[test].append(duration)
            if not durations:
                raise SystemExit("no test passes without a mutant")
            seconds.write_text(json.dumps({test: parts for test, parts in durations.items() if len(parts) == 3}))
        self._durations: dict[str, list[float]] = json.loads(seconds.read_text())
        self._setup: dict[str, float] = defaultdict(float)  # seconds of the fixtures that a file's tests share
        for test, parts in self._durations.items():
            self._setup[file_of(test)] = max(self._setup[file_of(test)], parts[0])
        self._data = coverage.CoverageData(str(lines))
        self._data.read()

    def of(self, path: str, line: int, budget: float) -> tuple[list[str], float, int]:
        """Chooses tests for a line within `budget` seconds, the fastest first, and at least one.

        These are the tests that execute the line, or any line of its file if the line runs only at import. Returns
        their names, their seconds together, and the number of tests for which the budget was too small.
        """
        file = next((name for name in self._data.measured_files() if name.endswith(path)), "")
        contexts = self._data.contexts_by_lineno(file)
        names = set(contexts.get(line, [])) - {""} or set(itertools.chain(*contexts.values()))
        tests = [test for test in self._durations if test in names or file_of(test) in names]
        setup = {test: self._setup[file_of(test)] for test in tests}
        # Tests of a file whose setup takes over a second run one after the other, so that its fixtures are made once.
        group = {test: file_of(test) if setup[test] > 1 else "" for test in tests}
        tests.sort(key=lambda test: (group[test], sum(self._durations[test])))
        chosen, total, files = [], 0.0, set()
        for test in tests:
            cost = sum(self._durations[test][1:]) + (0.0 if file_of(test) in files else setup[test])
            if not chosen or total + cost <= budget:
                chosen.append(test)
                files.add(file_of(test))
                total += cost
        return chosen, total, len(tests) - len(chosen)


def file_of(test: str) -> str:
    return test.partition("::")[0]


def judge(mutant: Mutant, tests: Tests, tree: Path, budget: float) -> dict[str, Any]:
    """Runs the tests with the mutant in the copied tree, restores the file, and returns the record for FILE."""
    names, seconds, left_out = tests.of(mutant.path, mutant.line, budget)
    if not names:
        return mutant.record(result="survived", by="", why="no test executes the line")
    original = (tree / mutant.path).read_text(encoding="utf-8")
    (tree / mutant.path).write_text(mutant.code, encoding="utf-8")
    began = time.monotonic()
    try:
        lines = run_tests(tree, names, 60 + 5 * seconds)
    finally:
        (tree / mutant.path).write_text(original, encoding="utf-8")
    failures = [line for line in lines if line[0] in ("failed", "hung")]
    passed = len({line[1] for line in lines if line[0] == "passed"})
    figures = {"seconds": round(time.monotonic() - began, 1), "passed": passed, "left_out": left_out}
    if failures:
        return mutant.record(result="caught", by=failures[0][1], why=failures[0][3] or failures[0][0], **figures)
    if passed < len(names):  # pytest ended early, for example because the process died
        return mutant.record(result="caught", by="", why=lines[-1][3], **figures)
    return mutant.record(result="survived", by="", why="", **figures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True, help="seed by which the mutants are drawn")
    parser.add_argument("--count", type=int, default=200, help="mutants in all folders together (default: 200)")
    parser.add_argument("--folders", nargs="+", choices=SHARES, default=list(SHARES), help="default: all")
    parser.add_argument("--resume", type=Path, required=True, metavar="FILE", help="file with the results")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of tests for one mutant (default: 60)")
    parser.add_argument("--at-most", type=int, default=10**9, help="mutants to run this time (default: all)")
    arguments = parser.parse_args()
    results = arguments.resume.resolve()
    equivalent = {(e["path"], e["old"], e["new"]): e["reason"] for e in json.loads(EQUIVALENT.read_text())}
    records = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    known = {(record["path"], record["line"], record["new"]) for record in records}
    mutants = draw(arguments.seed, arguments.count, arguments.folders)
    waiting = [mutant for mutant in mutants if (mutant.path, mutant.line, mutant.new) not in known]
    tree = copy_tree(results)
    # The forked processes inherit these imports. jax reads environment variables that `copy_tree` sets.
    for name in IMPORTS:
        importlib.import_module(name)
    tests = Tests(tree, results, arguments.folders)
    for mutant in waiting[: arguments.at_most]:
        if reason := equivalent.get((mutant.path, mutant.old, mutant.new)):
            record = mutant.record(result="equivalent", by="", why=reason)
        else:
            record = judge(mutant, tests, tree, arguments.budget)
        records.append(record)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        print(json.dumps(record, ensure_ascii=False), flush=True)
    outcomes = [record["result"] for record in records]
    print({outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}, "of", len(mutants))
    return 1 if "survived" in outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
