"""The tests, settings and links that the server's README names exist."""

import dataclasses
import pathlib
import re

from bart_server.settings import Settings

SERVER = pathlib.Path(__file__).parents[2] / "server"
README = (SERVER / "README.md").read_text()
TESTS = pathlib.Path(__file__).parent


def test_every_promise_names_tests_that_exist():
    promises = README[README.index("## Promises") :]
    named = re.findall(r"`(?:(test_\w+\.py))?(?:::)?(?:…?(\w+)…)?`", promises)
    file = ""
    for test_file, name in named:
        file = test_file or file
        source = (TESTS / file).read_text()
        assert re.search(rf"def test_\w*{name.removeprefix('test_')}", source), f"{file} has no test {name}"
    assert len(named) > 20


def test_every_setting_that_is_named_exists_and_every_limit_has_its_default():
    names = {field.name for field in dataclasses.fields(Settings)}
    flags = set(re.findall(r"`--([a-z-]+)`", README)) - {"help"}
    assert len(flags) > 10 and {flag.replace("-", "_") for flag in flags} <= names
    config = Settings()
    rows = re.findall(r"^\| (`--.*)$", README, flags=re.M)
    assert len(rows) > 5
    compared = []
    for row in rows:
        flags_cell, values_cell, *_ = row.split(" | ")
        shown = re.findall(r"\d+(?:,\d{3})*(?: MiB)?", values_cell)
        for flag in re.findall(r"`--([a-z-]+)`", flags_cell):
            value = getattr(config, flag.replace("-", "_"))
            if isinstance(value, int) and value != 0:  # 0 means that the checkpoint decides
                assert {f"{value:,}", f"{value >> 20} MiB"} & set(shown), f"--{flag} is {value}, the README says {row}"
                compared.append(flag)
    assert len(compared) > 5


def test_every_relative_link_leads_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    for link in links:
        assert (SERVER / link).exists(), link
