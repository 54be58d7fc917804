"""Writes the results of transformers 4.57.6 for every call of tests/pipelines/calls.py, and the checkpoints' digests.

CI does not run it. It needs an environment of its own and is run from the repository's root:

    python3 -m venv golden-env && golden-env/bin/pip install torch==2.13.0 transformers==4.57.6
    CUDA_VISIBLE_DEVICES= golden-env/bin/python -m tests.pipelines.golden.write

The committed results come from PyTorch's build for CPUs.
"""

from __future__ import annotations

import json
import platform
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset as TorchDataset
from transformers import GenerationConfig, pipeline

from tests.pipelines.calls import CALLS, Call, Rows, argument
from tests.pipelines.checkpoints import CHECKPOINTS, build, digest

RESULTS = Path(__file__).with_name("transformers-4.57.6.json")


class TorchRows(Rows, TorchDataset):
    """A torch Dataset; transformers 4.57.6 iterates over no other class that has only __len__ and __getitem__."""


def as_json(value: Any) -> Any:
    """A result as JSON: {"tensor": …} for a tensor, {"lazy": …} for an iterator, floats with seven digits."""
    if isinstance(value, torch.Tensor):
        return {"tensor": as_json(value.tolist())}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if value is None or isinstance(value, (str, int, bool)):
        return str(value) if isinstance(value, np.str_) else value
    return {"lazy": as_json(list(value))}


def answer(call: Call, folder: Path) -> Any:
    """The result of the call, or {"error": names of the error's classes, "message": the beginning of its message}."""
    init, kwargs = dict(call.init), dict(call.kwargs)
    if call.theirs is not None:
        init, kwargs = call.theirs.get("init", init), call.theirs.get("kwargs", kwargs)
    try:
        for keywords in (init, kwargs):
            if isinstance(keywords.get("generation_config"), dict):
                keywords |= {"generation_config": GenerationConfig(**keywords["generation_config"])}
        pipe = pipeline(call.task, model=str(folder / call.checkpoint), **init)
        return as_json(pipe(*[argument(a, TorchRows) for a in call.args], **kwargs))
    except BaseException as error:  # a panic in the tokenizers library is not an Exception
        names = [kind.__name__ for kind in type(error).__mro__ if kind not in (object, BaseException, Exception)]
        return {"error": names, "message": str(error).splitlines()[0][:120] if str(error) else ""}


def main() -> None:
    assert transformers.__version__ == "4.57.6", transformers.__version__
    torch.set_num_threads(1)  # for these tiny models, waiting for other threads takes longer than computing
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity(50)
    with tempfile.TemporaryDirectory() as folder:
        digests = {name: digest(build(name, Path(folder) / name)) for name in CHECKPOINTS}
        answers = {call.name: answer(call, Path(folder)) for call in CALLS}
    versions = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in answers.items()]
    head = f'"versions": {json.dumps(versions)},\n"digests": {json.dumps(digests, indent=1)}'
    RESULTS.write_text(f'{{\n{head},\n"answers": {{\n' + ",\n".join(lines) + "\n}\n}\n", encoding="utf-8")
    print(f"{len(answers)} calls, {sum('error' in a for a in answers.values() if isinstance(a, dict))} of them errors")


if __name__ == "__main__":
    main()
