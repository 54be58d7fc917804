"""How often bfloat16 writes something else than float32 on real text.

    python -m benchmarks.bfloat16 --corpus runs/corpus --record benchmarks/records/<date>_bfloat16

bfloat16 is the speed mode of TPUs: weights and activations in bfloat16; norms, softmax and logits in float32. What is
compared are whole answers, document by document: greedy search and four beams, the checkpoint's own options otherwise.
A CPU adds up in another order than a TPU, and may keep in float32 what a TPU rounds, so a TPU may differ more often.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import bart_inference
import jax
import numpy as np
from bart_inference.tokenization import decode_text, encode_text, pad, truncate
from bart_training.data import read_records
from bart_training.evaluate import rouge

BATCH = 32


def answers(model: bart_inference.Prepared, documents: list[str], **options: Any) -> list[list[int]]:
    """The token ids of each document's answer, start token first."""
    assert model.tokenizer is not None
    limit = model.config.max_position_embeddings
    rows = [truncate(encode_text(model.tokenizer, document), limit) for document in documents]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: list[list[int]] = [[]] * len(rows)
    for first in range(0, len(order), BATCH):
        chosen = order[first : first + BATCH]
        made = bart_inference.generate(model, *pad([rows[i] for i in chosen], model.config.pad_token_id), **options)
        for i, ids, length in zip(chosen, made.sequences, made.lengths, strict=True):
            found[i] = ids[:length].tolist()
    return found


def shared(a: list[int], b: list[int]) -> int:
    """Tokens before the first difference."""
    differences = [i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
    return differences[0] if differences else min(len(a), len(b))


def compare(wide: list[list[int]], narrow: list[list[int]]) -> dict[str, float]:
    """wide: float32's answers; narrow: bfloat16's. Shares in percent; the start token counts for nothing."""
    same = [shared(a, b) - 1 for a, b in zip(wide, narrow, strict=True)]
    tokens = [len(a) - 1 for a in wide]
    return {
        "documents": len(wide),
        "differing_percent": round(100 * float(np.mean([a != b for a, b in zip(wide, narrow, strict=True)])), 2),
        "tokens_before_the_first_difference_percent": round(100 * sum(same) / sum(tokens), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--split", default="test", choices=["train", "validation", "test"])
    parser.add_argument("--model", type=Path, help="folder of a model; the embedded one by default")
    parser.add_argument("--limit", type=int, default=200, help="only the first records")
    parser.add_argument("--record", type=Path, help="folder for result.json")
    args = parser.parse_args()
    records = read_records(args.corpus / f"{args.split}.jsonl.gz")[: args.limit]
    documents, references = ([r[name] for r in records] for name in ("document", "summary"))
    wide, narrow = (bart_inference.prepare(bart_inference.load(args.model, d)) for d in ("float32", "bfloat16"))
    assert wide.tokenizer is not None
    result: dict[str, Any] = {}
    for beams in (1, 4):
        found = [answers(model, documents, num_beams=beams) for model in (wide, narrow)]
        scores = [rouge(references, [decode_text(wide.tokenizer, ids) for ids in rows]) for rows in found]
        result[f"{beams} beams"] = compare(*found) | {"rouge_float32": scores[0], "rouge_bfloat16": scores[1]}
    result["circumstances"] = {
        "model": str(args.model or "embedded"), "split": args.split, "jax": jax.__version__,
        "device": jax.devices()[0].device_kind, "machine": platform.machine(),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if args.record:
        args.record.mkdir(parents=True, exist_ok=True)
        (args.record / "result.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
