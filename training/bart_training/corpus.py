"""Makes a corpus from Debian's indices: `python -m bart_training.corpus --fetch --out CORPUS`.

A record pairs a package's long description (document) with its one-line synopsis (summary). Writes train, validation
and test.jsonl.gz (package, source, document, summary) and MANIFEST.json (inputs with SHA-256, counts at each step). The
same indices give the same bytes. A record's split depends on the name of its source package alone, so that it is the
same when the archive grows. Validation records that resemble a training record are dropped, and so are test records
that resemble a training or validation record.
"""

import argparse
import gzip
import hashlib
import itertools
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from bart_training import apt, cleaning
from bart_training.cleaning import normalized
from bart_training.noise import SENTENCE

SHARED_BY = 20  # a sentence in the descriptions of at least this many source families (see `family`) is boilerplate
PER_FAMILY = 20  # at most this many records from one source family
PERCENT = {"test": 5, "validation": 5}  # shares of the source families; all other families are in train
# Two documents are near-duplicates if the number of shingles that both have (see `shingles`) is at least JACCARD times
# the number that either of them has, or at least CONTAINMENT times the number of the document that has fewer.
JACCARD, CONTAINMENT = 0.2, 0.35


class Record(NamedTuple):
    """A record of the corpus, and what it is compared and sorted by."""

    package: str
    source: str
    document: str
    summary: str
    first: str  # the first paragraph, normalized for comparisons
    full: str  # the document, normalized
    summary_key: str  # the summary, normalized
    rank: tuple[int, int, str]  # of similar records from one source family, the one of lowest rank is kept

    @property
    def family(self) -> str:
        return family(self.source)


def family(source: str) -> str:
    """The family of a source package: its name without versions and some suffixes, such as "gcc" for gcc-12-cross."""
    name = re.sub(r"-(signed|cross|defaults|source|lts|esr)\b.*$", "", source)
    return re.sub(r"[-.]?v?\d[\d.]*[a-z]?$", "", name) or name


def split_of(source: str) -> str:
    """The split of a source package: a hash of its family's name, so that all packages of a family are in one split."""
    bucket = int(hashlib.sha256(family(source).encode()).hexdigest()[:8], 16) % 100
    if bucket < PERCENT["test"]:
        return "test"
    return "validation" if bucket < PERCENT["test"] + PERCENT["validation"] else "train"


Sentences = list[list[str]]  # a description: for each paragraph, its sentences


def candidates(packages: list[apt.Package]) -> list[Record]:
    """One cleaned record for every package whose description is worth learning from."""
    descriptions: list[Sentences] = []
    for package in packages:
        descriptions.append([SENTENCE.split(paragraph) for paragraph in cleaning.paragraphs(package.body)])
    boilerplate = shared_sentences(packages, descriptions)
    records = []
    for package, paragraphs in zip(packages, descriptions, strict=True):
        texts = informative(paragraphs, boilerplate)
        document, summary = cleaning.cut(" ".join(texts)), cleaning.clean_synopsis(package.synopsis)
        if cleaning.worth_learning(document, summary):
            keys = normalized(texts[0]), normalized(document), normalized(summary)
            records.append(Record(package.name, package.source, document, summary, *keys, rank(package)))
    return records


def shared_sentences(packages: list[apt.Package], descriptions: list[Sentences]) -> set[str]:
    """The sentences that SHARED_BY or more source families have."""
    families: dict[str, set[str]] = defaultdict(set)  # sentence -> source families that have it
    for package, paragraphs in zip(packages, descriptions, strict=True):
        for sentence in itertools.chain.from_iterable(paragraphs):
            families[sentence].add(family(package.source))
    return {sentence for sentence, users in families.items() if len(users) >= SHARED_BY}


def informative(paragraphs: Sentences, boilerplate: set[str]) -> list[str]:
    """The paragraphs without the sentences in `boilerplate` and those that match cleaning.BOILERPLATE.

    The first sentence of a description is compared with cleaning.EMPTY_OPENING instead.
    """
    texts = []
    for i, sentences in enumerate(paragraphs):
        informative_sentences = []
        for j, sentence in enumerate(sentences):
            rule = cleaning.EMPTY_OPENING if i + j == 0 else cleaning.BOILERPLATE
            if sentence not in boilerplate and not rule.match(sentence):
                informative_sentences.append(sentence)
        text = " ".join(informative_sentences)
        if len(text) > 2:
            texts.append(text)
    return texts


def rank(package: apt.Package) -> tuple[int, int, str]:
    """A sort key, lowest for the package whose description says most about its source family.

    Packages with the name of their source come first, then others, then variants such as documentation and headers.
    Among equal ones the shortest name comes first.
    """
    if package.name in (package.source, family(package.source)):
        return 0, len(package.name), package.name
    variant = bool(cleaning.VARIANT_SYNOPSIS.search(package.synopsis))
    variant_name = bool(cleaning.VARIANT_NAME.search(package.name))
    return 1 + variant + 2 * variant_name, len(package.name), package.name


def one_per_family(records: list[Record]) -> list[Record]:
    """The records without those that repeat the first paragraph, document or summary of a record from their family.

    The records of each source family are compared in the order of their ranks, so the one of lowest rank stays.
    """
    used: set[tuple[str, str, str]] = set()
    kept = []
    for record in sorted(records, key=lambda record: (record.family, record.rank)):
        keys = [(record.family, field, getattr(record, field)) for field in ("first", "full", "summary_key")]
        if used.isdisjoint(keys):
            kept.append(record)
        used.update(keys)
    return kept


def across_families(records: list[Record]) -> list[Record]:
    """At most one record for each document and first paragraph, two for each summary, PER_FAMILY for each family."""
    texts: set[str] = set()
    summaries: Counter[str] = Counter()
    members: Counter[str] = Counter()
    kept = []
    for record in sorted(records, key=by_source):
        if record.full in texts or record.first in texts:
            continue
        if summaries[record.summary_key] >= 2 or members[record.family] >= PER_FAMILY:
            continue
        members[record.family] += 1
        summaries[record.summary_key] += 1
        texts.update((record.full, record.first))
        kept.append(record)
    return kept


def by_source(record: Record) -> tuple[str, tuple[int, int, str]]:
    """A sort key: a hash of the source's name, for an order that is mixed but reproducible, then the rank."""
    return hashlib.sha256(record.source.encode()).hexdigest(), record.rank


def shingles(document: str, n: int = 5) -> set[int]:
    """The shingles of a document: 64-bit hashes of every n successive words."""
    words = re.findall(r"\w+", document.lower())
    hashes = set()
    for i in range(max(1, len(words) - n + 1)):
        run = " ".join(words[i : i + n])
        hashes.add(int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "big"))
    return hashes


def purge(records: list[Record], earlier: list[Record]) -> list[Record]:
    """The records that do not resemble any of `earlier`, by the same summary or by common shingles."""
    summaries = {record.summary_key for record in earlier}
    sizes: list[int] = []  # the number of shingles of each earlier document
    index: dict[int, list[int]] = defaultdict(list)  # shingle -> earlier documents
    for i, record in enumerate(earlier):
        hashes = shingles(record.document)
        sizes.append(len(hashes))
        for shingle in hashes:
            index[shingle].append(i)
    kept = []
    for record in records:
        if record.summary_key not in summaries and not resembles(shingles(record.document), index, sizes):
            kept.append(record)
    return kept


def resembles(hashes: set[int], index: dict[int, list[int]], sizes: list[int]) -> bool:
    """Whether a document is a near-duplicate of one of the 20 earlier documents that share the most shingles with it.

    hashes: its shingles. index: shingle -> earlier documents. sizes: the number of shingles of each earlier document.
    """
    shared: Counter[int] = Counter()  # index of an earlier document -> number of common shingles
    for shingle in hashes:
        shared.update(index.get(shingle, ()))
    for i, count in shared.most_common(20):
        jaccard = count / (len(hashes) + sizes[i] - count)
        containment = count / min(len(hashes), sizes[i])
        if jaccard >= JACCARD or containment >= CONTAINMENT:
            return True
    return False


def beyond(records: list[Record], corpus: Path) -> list[Record]:
    """The records of source families that a written corpus lacks, without those that resemble records of it."""
    known = []
    for name in ("train", "validation", "test"):
        with gzip.open(corpus / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                fields = json.loads(line)
                full, summary_key = normalized(fields["document"]), normalized(fields["summary"])
                known.append(Record(**fields, first="", full=full, summary_key=summary_key, rank=(0, 0, "")))
    families = {record.family for record in known}
    return purge([record for record in records if record.family not in families], known)


def build(packages: list[apt.Package]) -> tuple[dict[str, list[Record]], dict[str, int]]:
    """The three splits, and how many records were left after each step."""
    counts = {"packages": len(packages)}
    packages = [package for package in packages if package.section.split("/")[-1] not in cleaning.SKIPPED_SECTIONS]
    packages = [package for package in packages if not cleaning.SKIPPED_SYNOPSIS.search(package.synopsis)]
    counts["not transitional, meta or debug"] = len(packages)
    records = candidates(packages)
    counts["long enough after cleaning"] = len(records)
    records = one_per_family(records)
    counts["one per source family and first paragraph"] = len(records)
    records = across_families(records)
    counts["no duplicates across families"] = len(records)
    splits: dict[str, list[Record]] = {"train": [], "validation": [], "test": []}
    for record in records:
        splits[split_of(record.source)].append(record)
    splits["validation"] = purge(splits["validation"], splits["train"])
    splits["test"] = purge(splits["test"], splits["train"] + splits["validation"])
    return splits, counts | {name: len(part) for name, part in splits.items()}


def write(path: Path, records: list[Record]) -> dict[str, object]:
    """Writes JSON lines, gzipped without a time stamp, so that equal records give equal bytes.

    Returns the number of records, and the size in bytes and SHA-256 of the uncompressed text.
    """
    lines = []
    for record in records:
        fields = {name: getattr(record, name) for name in ("package", "source", "document", "summary")}
        lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
    text = "".join(lines).encode()
    with path.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=9) as out:
        out.write(text)
    return {"records": len(records), "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--state", type=Path, default=Path("apt"), help="folder of a separate apt state; its lists/ is read"
    )
    parser.add_argument("--fetch", action="store_true", help="fetch the indices first; without it no network is used")
    parser.add_argument("--sources", type=Path, help="a sources.list to fetch; by default this machine's")
    parser.add_argument(
        "--beyond", type=Path, help="write only a test split, of source families that this corpus does not have"
    )
    parser.add_argument("--suite", default="*", help="read only this suite, such as bookworm")
    args = parser.parse_args()
    if args.fetch:
        apt.fetch(args.state, args.sources)
    packages, inputs = apt.load(args.state / "lists", args.suite)
    splits, counts = build(packages)
    if args.beyond:
        records = list(itertools.chain.from_iterable(splits.values()))
        splits = {"test": beyond(records, args.beyond)}
    args.out.mkdir(parents=True, exist_ok=True)
    files = {name: write(args.out / f"{name}.jsonl.gz", records) for name, records in splits.items()}
    manifest = json.dumps({"inputs": inputs, "steps": counts, "files": files}, indent=1)
    (args.out / "MANIFEST.json").write_text(manifest + "\n")
    print(manifest)


if __name__ == "__main__":
    main()
