"""The corpus builder joins, cleans, splits and purges the packages of a small invented folder of apt lists."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bart_training import apt, corpus
from bart_training.cleaning import clean_synopsis, cut, paragraphs
from bart_training.data import read_records

ROOT = Path(__file__).resolve().parents[2]
EMPTY = "This package contains the documentation. "
LONG = "It reads {0} files from disk, shows what is in them, and writes them back when the {0} user asks for it."
PACKAGES = {  # name: (source, section, synopsis, body)
    "alpha": ("alpha", "editors", "editor for alpha files", LONG.format("alpha")),
    "alpha-doc": ("alpha", "doc", "editor for alpha files - documentation", LONG.format("alpha")),
    "beta": ("beta-2", "games", "game of beta and more beta", LONG.format("beta")),
    "gamma": ("gamma", "oldlibs", "transitional package for gamma", LONG.format("gamma")),
    "delta": ("delta", "utils", "tool", LONG.format("delta")),
    "epsilon": ("epsilon", "utils", "epsilon tool for the desktop", "Too short to learn from."),
    "zeta": (
        "zeta",
        "utils",
        "zeta tool for the desktop",
        EMPTY + LONG.format("zeta"),
    ),
}


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("apt")
    (folder / "lists").mkdir()
    index, translation = [], []
    for i, (name, (source, section, synopsis, body)) in enumerate(PACKAGES.items()):
        fields = {"Package": name, "Source": source, "Section": section, "Description-md5": f"{i:032x}"}
        index.append("".join(f"{field}: {value}\n" for field, value in fields.items()))
        fields = {
            "Package": name,
            "Description-md5": f"{i:032x}",
            "Description-en": f"{synopsis}\n {body}\n .\n  verbatim",
        }
        translation.append("".join(f"{field}: {value}\n" for field, value in fields.items()))
    prefix = "mirror.example_debian_dists_tiny_main_"
    (folder / "lists" / f"{prefix}binary-amd64_Packages").write_text("\n".join(index))
    (folder / "lists" / f"{prefix}i18n_Translation-en").write_text("\n".join(translation))
    return folder


def test_packages_are_joined_with_their_long_descriptions(state):
    packages, inputs = apt.load(state / "lists", "*")
    assert [p.name for p in packages] == sorted(PACKAGES)
    assert packages[0] == apt.Package(
        "alpha", "alpha", "editors", "editor for alpha files", f" {LONG.format('alpha')}\n .\n  verbatim"
    )
    assert len(inputs) == 2
    with pytest.raises(FileNotFoundError, match="other"):
        apt.load(state / "lists", "other")


def test_the_command_writes_the_same_bytes_twice(state, tmp_path):
    for out in ("a", "b"):
        command = [sys.executable, "-m", "bart_training.corpus", "--state", str(state), "--out", str(tmp_path / out)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    names = {p.name for p in (tmp_path / "a").iterdir()}
    assert names == {"train.jsonl.gz", "validation.jsonl.gz", "test.jsonl.gz", "MANIFEST.json"}
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    splits = json.loads((tmp_path / "a" / "MANIFEST.json").read_text())["files"]
    records = [r for name in splits for r in read_records(tmp_path / "a" / f"{name}.jsonl.gz")]
    # Left out: alpha-doc repeats alpha, gamma is transitional, delta's synopsis is one word, epsilon's text is short.
    assert {r["package"] for r in records} == {"alpha", "beta", "zeta"}
    zeta = next(r for r in records if r["package"] == "zeta")
    assert zeta["document"] == LONG.format("zeta") + " verbatim"  # without its first sentence, which is boilerplate


def test_the_split_follows_the_source_family():
    assert corpus.family("gcc-12") == corpus.family("gcc-13") == "gcc"
    assert corpus.family("linux-signed-amd64") == "linux"
    splits = [corpus.split_of(f"source{chr(97 + i // 26)}{chr(97 + i % 26)}") for i in range(600)]
    assert 0.85 < splits.count("train") / 600 < 0.95
    assert corpus.split_of("gcc-12") == corpus.split_of("gcc-13")


def record(package: str, document: str, summary: str) -> corpus.Record:
    return corpus.Record(package, package, document, summary, document, document, summary, (0, 0, package))


def test_near_duplicates_of_an_earlier_split_are_purged():
    earlier = [record("one", LONG.format("one") + " " + LONG.format("two"), "one thing")]
    same_text = record("a", LONG.format("one") + " But not all of it is the same.", "another thing")
    same_summary = record("b", "Something else entirely, which shares no five words in a row.", "one thing")
    different = record("c", "Something else entirely, which shares no five words in a row.", "third thing")
    assert corpus.purge([same_text, same_summary, different], earlier) == [different]


def test_beyond_keeps_only_other_families_and_texts_that_resemble_no_record_of_the_corpus(tmp_path):
    known = record("gcc-12", LONG.format("gcc"), "GNU compiler")
    for name in ("train", "validation", "test"):
        corpus.write(tmp_path / f"{name}.jsonl.gz", [known] if name == "test" else [])
    newer = [
        record("gcc-13", "another text that has not one word in common with it", "another summary"),
        record("copy", LONG.format("gcc"), "a summary of its own"),
        record("echo", "its own text about quite different things than the others", "GNU compiler"),
        record("fresh", "this one tells of nothing that anybody has read before here", "something new"),
    ]
    newer[2] = newer[2]._replace(summary_key=corpus.normalized("GNU compiler"))
    assert [r.package for r in corpus.beyond(newer, tmp_path)] == ["fresh"]


def test_text_rules():
    assert paragraphs(" One\n two.\n .\n  * three") == ["One two.", "* three"]
    assert clean_synopsis("fast parser for logs - development files") == "fast parser for logs"
    assert clean_synopsis("parser - documentation") == "parser - documentation"  # one word would be too little
    assert cut("A sentence of words. " * 200).endswith("words.")
    assert len(cut("word " * 1000)) <= 2000
