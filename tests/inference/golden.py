"""Records the token ids that transformers generates, so that a machine without PyTorch can compare with them.

`python -m tests.inference.golden` writes golden.json with the installed transformers, for the embedded checkpoint and
the documents in its folder.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bart_inference.checkpoint import embedded
from tokenizers import Tokenizer

FILE = Path(__file__).with_name("golden.json")
PAD = 1
OPTIONS: dict[str, dict[str, Any]] = {
    "the checkpoint's options": {},
    "greedy": {"num_beams": 1},
    "beams without penalties": {
        "num_beams": 4, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "length_penalty": 2.0,
        "early_stopping": False, "min_length": 8,
    },
}  # fmt: skip


def source() -> tuple[np.ndarray, np.ndarray]:
    """The embedded checkpoint's example documents as input_ids and attention_mask (B,S), padded on the right."""
    tokenizer = Tokenizer.from_file(str(embedded() / "tokenizer.json"))
    lines = (embedded() / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [tokenizer.encode(json.loads(line)["document"]).ids for line in lines]
    longest = max(map(len, rows))
    input_ids = np.array([row + [PAD] * (longest - len(row)) for row in rows])
    return input_ids, np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def transformers_tokens() -> Iterator[tuple[str, list[list[int]]]]:
    """Yields the name of each entry of OPTIONS and the token ids that transformers generates in float32 on the CPU."""
    import torch
    from transformers import BartForConditionalGeneration

    model = BartForConditionalGeneration.from_pretrained(embedded(), dtype=torch.float32).eval()
    input_ids, attention_mask = map(torch.tensor, source())
    for name, options in OPTIONS.items():
        with torch.no_grad():
            yield name, model.generate(input_ids, attention_mask=attention_mask, **options).tolist()


def main() -> None:
    lines = [f"{json.dumps(name)}: {json.dumps(tokens)}" for name, tokens in transformers_tokens()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
