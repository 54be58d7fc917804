"""Prints by how much PyTorch preferred its tokens where ours differ.

    python -m benchmarks.difference FOLDER < work.json

The output is {"margin": …}: the difference of log-probabilities at the first decision that differs (support/oracle.py),
or Infinity if all tokens are equal. Standard input is a Work of benchmarks/rivals.py.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import torch
from bart_inference import Prepared, load, prepare
from bart_inference.tokenization import pad
from transformers import BartForConditionalGeneration

from benchmarks.machine import THREADS
from support import oracle


def margin(model: BartForConditionalGeneration, prepared: Prepared, work: dict[str, Any]) -> float:
    """The largest margin, over all batches, of the first decision that differs: a difference of log-probabilities."""
    options = {"num_beams": model.generation_config.num_beams or 1, **work["options"]}
    margins = []
    for batch in work["batches"]:
        ids, mask = pad(batch, work["pad_token_id"])
        case = oracle.Case("the checkpoint", ids, mask, None, options)
        outcome = oracle.compare(case, model, prepared)
        if outcome.problem.startswith("tokens differ"):
            margins.append(outcome.margin)
    return max(margins, default=math.inf)


def main(folder: str) -> None:
    torch.set_num_threads(THREADS)
    model = BartForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    print(json.dumps({"margin": margin(model, prepare(load(folder)), json.load(sys.stdin))}))


if __name__ == "__main__":
    main(sys.argv[1])
