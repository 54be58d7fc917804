"""Reads the descriptions of every binary package from the package indices that apt fetches.

Debian's Packages index holds one-line synopses only. Long descriptions are in the index Translation-en, where they are
found by package name and Description-md5. Indices are fetched into a separate folder, so the system's apt state is not
changed.
"""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HELPER = "/usr/lib/apt/apt-helper"  # decompresses indices
COMPRESSED = (".lz4", ".gz", ".xz")


class Package(NamedTuple):
    """A binary package of Debian."""

    name: str
    source: str  # the name of its source package
    section: str
    synopsis: str  # the description's first line
    body: str  # the long description, as indented lines


def fetch(state: Path, sources: Path | None = None) -> None:
    """`apt-get update` with English long descriptions.

    state: the folder of the indices. sources: a sources.list; by default the sources of this machine.
    """
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    options = {
        "Acquire::Languages": "en",
        "Dir::State::lists": f"{state.resolve()}/lists",
        "Dir::Cache": f"{state.resolve()}/cache",
        "APT::Update::Post-Invoke": "",
        "APT::Update::Post-Invoke-Success": "",
    }
    if sources:
        options |= {"Dir::Etc::sourcelist": str(sources.resolve()), "Dir::Etc::sourceparts": "-"}
    settings: list[str] = []
    for name, value in options.items():
        settings += ["-o", f"{name}={value}"]
    subprocess.run(["apt-get", "update", "-q", *settings], check=True)


def read(path: Path) -> bytes:
    """The decompressed bytes of an index: apt stores it plain or in one of several formats."""
    if path.suffix not in COMPRESSED:
        return path.read_bytes()
    return subprocess.run([HELPER, "cat-file", path], stdout=subprocess.PIPE, check=True).stdout


def stanzas(text: str, wanted: set[str]) -> Iterator[dict[str, str]]:
    """The wanted fields of each paragraph of a Debian control file; continuation lines keep their indentation."""
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in block.split("\n"):
            if line[:1] in (" ", "\t") and name in wanted:
                fields[name] += "\n" + line
            elif line and line[0] not in " \t":
                name, _, value = line.partition(":")
                if name in wanted:
                    fields[name] = value.strip()
        if fields:
            yield fields


def load(lists: Path, suite: str) -> tuple[list[Package], list[dict[str, object]]]:
    """The packages of a suite's component main, each once, sorted by name; and each index's name, size and SHA-256.

    Raises FileNotFoundError if an index or its translation has not been fetched.
    """
    packages: dict[str, Package] = {}
    inputs: list[dict[str, object]] = []
    for index in sorted(lists.glob(f"*_dists_{suite}_main_binary-amd64_Packages*")):
        translations = list(lists.glob(index.name.split("_binary-amd64_")[0] + "_i18n_Translation-en*"))
        if not translations:
            raise FileNotFoundError(f"no Translation-en beside {index}: run with --fetch")
        texts = []
        for path in (index, translations[0]):
            raw = read(path)
            name = path.stem if path.suffix in COMPRESSED else path.name
            inputs.append({"name": name, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()})
            texts.append(raw.decode("utf-8", "replace"))
        descriptions: dict[tuple[str, str], str] = {}
        for fields in stanzas(texts[1], {"Package", "Description-md5", "Description-en"}):
            descriptions[fields["Package"], fields["Description-md5"]] = fields["Description-en"]
        for fields in stanzas(texts[0], {"Package", "Source", "Section", "Description-md5"}):
            name = fields["Package"]
            description = descriptions.get((name, fields.get("Description-md5", "")))
            if description and name not in packages:
                synopsis, _, body = description.partition("\n")
                source = (fields.get("Source") or name).split()[0]
                packages[name] = Package(name, source, fields.get("Section", ""), synopsis.strip(), body)
    if not inputs:
        raise FileNotFoundError(f"no index of suite {suite!r} in {lists}: run with --fetch")
    return [packages[name] for name in sorted(packages)], inputs
