"""Measures how often bfloat16 generates other tokens than float32 on real text.

    python -m benchmarks.bfloat16 --corpus runs/corpus --record benchmarks/records/<date>_bfloat16

bfloat16 is the speed mode of TPUs: weights and activations are bfloat16; norms, softmax and logits are float32. For
each document, the whole answers of both are compared, by greedy search and by four beams, with the checkpoint's other
options. A CPU adds in another order than a TPU, and may keep in float32 what a TPU rounds, so a TPU may differ more
often.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import bart_inference
import jax
from bart_inference.tokenization import decode_text, encode_text, pad, truncate
from bart_training.data import read_records
from bart_training.evaluate import rouge

BATCH = 32


def answers(model: bart_inference.Prepared, documents: list[str], **options: Any) -> list[list[int]]:
    """The token ids of each document's answer, beginning with the start token."""
    assert model.tokenizer is not None
    limit = model.config.max_position_embeddings
    rows = [truncate(encode_text(model.tokenizer, document), limit) for document in documents]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    token_ids: list[list[int]] = [[]] * len(rows)
    for first in range(0, len(order), BATCH):
        batch = order[first : first + BATCH]
        ids, mask = pad([rows[i] for i in batch], model.config.pad_token_id)
        generated = bart_inference.generate(model, ids, mask, **options)
        for i, sequence, length in zip(batch, generated.sequences, generated.lengths, strict=True):
            token_ids[i] = sequence[:length].tolist()
    return token_ids


def texts(model: bart_inference.Prepared, token_ids: list[list[int]]) -> list[str]:
    assert model.tokenizer is not None
    return [decode_text(model.tokenizer, ids) for ids in token_ids]


def shared(a: list[int], b: list[int]) -> int:
    """The number of tokens before the first difference."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def compare(wide: list[list[int]], narrow: list[list[int]]) -> dict[str, float]:
    """Compares float32's answers (`wide`) with bfloat16's (`narrow`). Start tokens are not counted."""
    pairs = list(zip(wide, narrow, strict=True))
    differing = sum(a != b for a, b in pairs)
    same_tokens = sum(shared(a, b) - 1 for a, b in pairs)
    tokens = sum(len(a) - 1 for a in wide)
    return {
        "documents": len(wide),
        "differing_percent": round(100 * differing / len(wide), 2),
        "tokens_before_the_first_difference_percent": round(100 * same_tokens / tokens, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder that bart_training.corpus wrote")
    parser.add_argument("--split", default="test", choices=["train", "validation", "test"], help="default: test")
    parser.add_argument("--model", type=Path, help="folder of a model; the embedded one by default")
    parser.add_argument("--limit", type=int, default=200, help="number of records to compare (default: 200)")
    parser.add_argument("--record", type=Path, help="folder for result.json")
    args = parser.parse_args()
    records = read_records(args.corpus / f"{args.split}.jsonl.gz")[: args.limit]
    documents = [record["document"] for record in records]
    references = [record["summary"] for record in records]
    wide = bart_inference.prepare(bart_inference.load(args.model, "float32"))
    narrow = bart_inference.prepare(bart_inference.load(args.model, "bfloat16"))
    result: dict[str, Any] = {}
    for beams in (1, 4):
        wide_ids = answers(wide, documents, num_beams=beams)
        narrow_ids = answers(narrow, documents, num_beams=beams)
        figures: dict[str, Any] = dict(compare(wide_ids, narrow_ids))
        figures["rouge_float32"] = rouge(references, texts(wide, wide_ids))
        figures["rouge_bfloat16"] = rouge(references, texts(wide, narrow_ids))
        result[f"{beams} beams"] = figures
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
