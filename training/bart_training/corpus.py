"""Long package description → synopsis, from Debian's indices: `python -m bart_training.corpus --fetch --out CORPUS`.

Writes train, validation and test.jsonl.gz (package, source, document, summary) and MANIFEST.json (inputs with SHA-256,
counts at each step). The same indices give the same bytes. The split depends on the source package's name alone, so
a source stays where it is when the archive grows; validation and test records that resemble an earlier split's are
dropped.
"""

import argparse
import gzip
import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from bart_training import apt, cleaning
from bart_training.cleaning import normalized
from bart_training.noise import SENTENCE

SHARED_BY = 20  # a sentence that so many source families share is boilerplate
PER_FAMILY = 20  # most records from one source family
PERCENT = {"test": 5, "validation": 5}  # of source families; the rest is train
JACCARD, CONTAINMENT = 0.2, 0.35  # of 5-word shingles: from here on two documents count as near-duplicates


class Record(NamedTuple):
    package: str
    source: str
    document: str
    summary: str
    first: str  # normalized first paragraph
    full: str  # normalized document
    summary_key: str  # normalized summary
    rank: tuple[int, int, str]  # which of several siblings to keep: lowest first

    @property
    def family(self) -> str:
        return family(self.source)


def family(source: str) -> str:
    """gcc-12 and gcc-13, linux and linux-signed-amd64 are one family."""
    name = re.sub(r"-(signed|cross|defaults|source|lts|esr)\b.*$", "", source)
    return re.sub(r"[-.]?v?\d[\d.]*[a-z]?$", "", name) or name


def split_of(source: str) -> str:
    bucket = int(hashlib.sha256(family(source).encode()).hexdigest()[:8], 16) % 100
    if bucket < PERCENT["test"]:
        return "test"
    return "validation" if bucket < PERCENT["test"] + PERCENT["validation"] else "train"


def candidates(packages: list[apt.Package]) -> list[Record]:
    """One cleaned record for every package whose description is worth learning from."""
    split = [[SENTENCE.split(p) for p in cleaning.paragraphs(package.body)] for package in packages]
    families: dict[str, set[str]] = defaultdict(set)  # sentence -> who uses it
    for package, paragraphs in zip(packages, split, strict=True):
        for sentence in (s for p in paragraphs for s in p):
            families[sentence].add(family(package.source))
    shared = {sentence for sentence, users in families.items() if len(users) >= SHARED_BY}

    records = []
    for package, paragraphs in zip(packages, split, strict=True):
        kept = []
        for i, sentences in enumerate(paragraphs):
            rules = [cleaning.EMPTY_OPENING if i + j == 0 else cleaning.BOILERPLATE for j in range(len(sentences))]
            text = " ".join(
                s for s, rule in zip(sentences, rules, strict=True) if s not in shared and not rule.match(s)
            )
            if len(text) > 2:
                kept.append(text)
        document, summary = cleaning.cut(" ".join(kept)), cleaning.clean_synopsis(package.synopsis)
        if cleaning.worth_learning(document, summary):
            keys = normalized(kept[0]), normalized(document), normalized(summary)
            records.append(Record(package.name, package.source, document, summary, *keys, rank(package)))
    return records


def rank(package: apt.Package) -> tuple[int, int, str]:
    """The package named like its source speaks best for it; documentation and the like come last."""
    if package.name in (package.source, family(package.source)):
        return 0, len(package.name), package.name
    variant = bool(cleaning.VARIANT_SYNOPSIS.search(package.synopsis))
    variant_name = bool(cleaning.VARIANT_NAME.search(package.name))
    return 1 + variant + 2 * variant_name, len(package.name), package.name


def one_per_family(records: list[Record]) -> list[Record]:
    """One record for each first paragraph, document and summary within a source family: the best representative."""
    used: set[tuple[str, str, str]] = set()
    kept = []
    for r in sorted(records, key=lambda r: (r.family, r.rank)):
        keys = [(r.family, kind, getattr(r, kind)) for kind in ("first", "full", "summary_key")]
        if used.isdisjoint(keys):
            kept.append(r)
        used.update(keys)
    return kept


def across_families(records: list[Record]) -> list[Record]:
    """One record for each document and first paragraph, two for each summary, PER_FAMILY for each family."""
    seen: set[str] = set()
    summaries: Counter[str] = Counter()
    members: Counter[str] = Counter()
    kept = []
    for r in sorted(records, key=lambda r: (hashlib.sha256(r.source.encode()).hexdigest(), r.rank)):
        if r.full in seen or r.first in seen or summaries[r.summary_key] >= 2 or members[r.family] >= PER_FAMILY:
            continue
        members[r.family] += 1
        summaries[r.summary_key] += 1
        seen.update((r.full, r.first))
        kept.append(r)
    return kept


def shingles(document: str, n: int = 5) -> set[int]:
    words = re.findall(r"\w+", document.lower())
    runs = (" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1)))
    return {int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "big") for run in runs}


def purge(records: list[Record], earlier: list[Record]) -> list[Record]:
    """Without the records that resemble an earlier split's: the same summary, or overlapping shingles."""
    summaries = {r.summary_key for r in earlier}
    sizes, index = [], defaultdict(list)
    for i, r in enumerate(earlier):
        runs = shingles(r.document)
        sizes.append(len(runs))
        for run in runs:
            index[run].append(i)
    kept = []
    for r in records:
        runs = shingles(r.document)
        n = len(runs)
        hits = Counter(i for run in runs for i in index.get(run, ()))
        close = (
            c / (n + sizes[i] - c) >= JACCARD or c / min(n, sizes[i]) >= CONTAINMENT for i, c in hits.most_common(20)
        )
        if r.summary_key not in summaries and not any(close):
            kept.append(r)
    return kept


def beyond(records: list[Record], corpus: Path) -> list[Record]:
    """The records of source families that a corpus has nothing of, without those that resemble one of its own."""
    known = []
    for name in ("train", "validation", "test"):
        with gzip.open(corpus / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for fields in map(json.loads, lines):
                keys = {
                    "first": "",
                    "full": normalized(fields["document"]),
                    "summary_key": normalized(fields["summary"]),
                }
                known.append(Record(**fields, **keys, rank=(0, 0, "")))
    families = {r.family for r in known}
    return purge([r for r in records if r.family not in families], known)


def build(packages: list[apt.Package]) -> tuple[dict[str, list[Record]], dict[str, int]]:
    """The three splits, and how many records each step left."""
    counts = {"packages": len(packages)}
    packages = [p for p in packages if p.section.split("/")[-1] not in cleaning.SKIPPED_SECTIONS]
    packages = [p for p in packages if not cleaning.SKIPPED_SYNOPSIS.search(p.synopsis)]
    counts["not transitional, meta or debug"] = len(packages)
    records = candidates(packages)
    counts["long enough after cleaning"] = len(records)
    records = one_per_family(records)
    counts["one per source family and first paragraph"] = len(records)
    records = across_families(records)
    counts["no duplicates across families"] = len(records)
    splits: dict[str, list[Record]] = {"train": [], "validation": [], "test": []}
    for r in records:
        splits[split_of(r.source)].append(r)
    splits["validation"] = purge(splits["validation"], splits["train"])
    splits["test"] = purge(splits["test"], splits["train"] + splits["validation"])
    return splits, counts | {name: len(part) for name, part in splits.items()}


def write(path: Path, records: list[Record]) -> dict[str, object]:
    """JSON lines, gzipped without a time stamp. Returns the manifest's entry."""
    fields = ("package", "source", "document", "summary")
    lines = (json.dumps({f: getattr(r, f) for f in fields}, ensure_ascii=False) + "\n" for r in records)
    text = "".join(lines).encode()
    with path.open("wb") as f, gzip.GzipFile(filename="", mode="wb", fileobj=f, mtime=0, compresslevel=9) as g:
        g.write(text)
    return {"records": len(records), "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, default=Path("apt"), help="private apt state; its lists/ is read")
    parser.add_argument("--fetch", action="store_true", help="fetch the indices first; without it no network is used")
    parser.add_argument("--sources", type=Path, help="a sources.list to fetch; by default this machine's")
    parser.add_argument(
        "--beyond", type=Path, help="one split, test, of source families that this corpus does not have"
    )
    parser.add_argument("--suite", default="*", help="only this suite, such as bookworm, of those configured")
    args = parser.parse_args()
    if args.fetch:
        apt.fetch(args.state, args.sources)
    packages, inputs = apt.load(args.state / "lists", args.suite)
    splits, counts = build(packages)
    if args.beyond:
        splits = {"test": beyond([r for part in splits.values() for r in part], args.beyond)}
    args.out.mkdir(parents=True, exist_ok=True)
    files = {name: write(args.out / f"{name}.jsonl.gz", records) for name, records in splits.items()}
    manifest = json.dumps({"inputs": inputs, "steps": counts, "files": files}, indent=1)
    (args.out / "MANIFEST.json").write_text(manifest + "\n")
    print(manifest)


if __name__ == "__main__":
    main()
