"""Where our tokens differ from PyTorch's: how close PyTorch's decision was there.

    python -m benchmarks.difference FOLDER < work.json

Prints {"margin": …} of the first decision that differs, as the tests' referee finds it; Infinity if none does.
"""

from __future__ import annotations

import json
import pathlib
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from bart_inference import load, prepare
from bart_inference.tokenization import pad
from transformers import BartForConditionalGeneration

from benchmarks.machine import THREADS
from tests.inference import referee
from tests.inference.cases import Case


def margin(folder: pathlib.Path, work: dict[str, Any]) -> float:
    """The largest margin at the first differing decision of any batch, in log-probability."""
    torch.set_num_threads(THREADS)
    model = BartForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    pair = SimpleNamespace(torch=model), prepare(load(folder))
    referee.checkpoint = lambda name: pair  # type: ignore[assignment]
    defaults = model.generation_config
    options = {"num_beams": defaults.num_beams or 1, **work["options"]}
    margins = []
    for batch in work["batches"]:
        ids, mask = pad(batch, work["pad_token_id"])
        case = Case(str(folder), ids, mask, None, options)
        outcome = referee.compare(case)
        if outcome.problem.startswith("tokens differ"):
            margins.append(outcome.margin)
    return max(margins, default=float(np.inf))


if __name__ == "__main__":
    print(json.dumps({"margin": margin(pathlib.Path(sys.argv[1]), json.load(sys.stdin))}))
