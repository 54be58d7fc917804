"""ROUGE of a model beside the baselines: `python -m bart_training.evaluate --corpus C --split validation [--model M]`.

Prints R1, R2 and RL: F1 in percent by rouge-score with stemming, mean over the records. `--options` takes options of
generate as JSON, to compare generation settings on validation; the test split is for the final report only.
"""

import argparse
import itertools
import json
import time
from collections import Counter
from pathlib import Path

import bart_inference
import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from tqdm import tqdm

from bart_training import baselines
from bart_training.data import read_records

KINDS = ["rouge1", "rouge2", "rougeL"]


def rouge(references: list[str], summaries: list[str]) -> dict[str, float]:
    """The mean F1 of each of KINDS, in percent."""
    scorer = RougeScorer(KINDS, use_stemmer=True)
    scores: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for reference, summary in zip(references, summaries, strict=True):
        for kind, score in scorer.score(reference, summary).items():
            scores[kind].append(score.fmeasure)
    return {kind: round(100 * float(np.mean(values)), 2) for kind, values in scores.items()}


def degenerate(summary: str) -> bool:
    """Whether a summary is empty, has a word twice in succession, or has a word three times."""
    words = summary.lower().split()
    if not words:
        return True
    for word, following in itertools.pairwise(words):
        if word == following:
            return True
    return max(Counter(words).values()) > 2


def summaries_of(model: bart_inference.Model, documents: list[str], batch_size: int, **options: object) -> list[str]:
    """Summaries in the order of the documents, made in batches of similar length."""
    prepared = bart_inference.prepare(model)
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
    summaries = [""] * len(documents)
    for start in tqdm(range(0, len(order), batch_size), mininterval=5):
        chosen = order[start : start + batch_size]
        batch = bart_inference.summarize(prepared, [documents[i] for i in chosen], **options)
        for i, summary in zip(chosen, batch, strict=True):
            summaries[i] = summary
    return summaries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--split", default="validation", choices=["train", "validation", "test"])
    parser.add_argument("--model", type=Path, help="folder of a model; the embedded one by default")
    parser.add_argument("--limit", type=int, help="evaluate only this many records, the first ones")
    parser.add_argument("--options", type=json.loads, default={}, help="options of generate, as JSON")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", type=Path, help="write summaries and scores here, as JSON")
    args = parser.parse_args()
    records = read_records(args.corpus / f"{args.split}.jsonl.gz")[: args.limit]
    documents = [record["document"] for record in records]
    references = [record["summary"] for record in records]
    scores = {
        "lead-1": rouge(references, [baselines.lead(document) for document in documents]),
        "rule": rouge(references, [baselines.rule(document) for document in documents]),
    }
    begun = time.monotonic()
    summaries = summaries_of(bart_inference.load(args.model), documents, args.batch_size, **args.options)
    scores["model"] = rouge(references, summaries)
    print(f"{args.split}, {len(records)} records, {time.monotonic() - begun:.0f} s, options {json.dumps(args.options)}")
    print(f"{'':8}{'rouge1':>8}{'rouge2':>8}{'rougeL':>8}")
    for name, row in scores.items():
        print(f"{name:8}{row['rouge1']:8.2f}{row['rouge2']:8.2f}{row['rougeL']:8.2f}")
    degenerate_count = sum(degenerate(summary) for summary in summaries)
    words = np.mean([len(summary.split()) for summary in summaries])
    print(f"degenerate (empty or repeating words): {degenerate_count}; words per summary: {words:.1f}")
    if args.out:
        rows = []
        for record, summary in zip(records, summaries, strict=True):
            rows.append({"package": record["package"], "summary": summary})
        args.out.write_text(json.dumps({"scores": scores, "summaries": rows}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
