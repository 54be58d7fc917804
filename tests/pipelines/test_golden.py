"""Every call in calls.py gives the result of transformers 4.57.6: equal texts, scores within 1e-4, or error class."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bart_inference.pipelines import PipelineIterator, pipeline

from tests.pipelines.calls import CALLS, Call, argument
from tests.pipelines.checkpoints import CHECKPOINTS, digest

GOLDEN = json.loads((Path(__file__).parent / "golden" / "transformers-4.57.6.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-4


def plain(value: Any) -> Any:
    """A result in the form of the golden file: {"tensor": …} for an array, {"lazy": …} for an iterator."""
    if isinstance(value, PipelineIterator):
        return {"lazy": plain(list(value))}
    if isinstance(value, np.ndarray):
        return {"tensor": value.tolist()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    assert value is None or type(value) in (str, int, float, bool, np.str_), (
        f"the result contains an object of {type(value)}"
    )
    return value


def differences(ours: Any, theirs: Any, where: str = "result") -> Iterator[str]:
    """Yields a message for each difference between two results; `where` is the place in the result."""
    if isinstance(theirs, float) and isinstance(ours, float):
        if not abs(ours - theirs) <= TOLERANCE * max(1.0, abs(theirs)):
            yield f"{where}: {ours} instead of {theirs}"
    elif isinstance(theirs, list) and isinstance(ours, list) and len(ours) == len(theirs):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(a, b, f"{where}[{i}]")
    elif isinstance(theirs, dict) and isinstance(ours, dict) and list(ours) == list(theirs):
        for name in theirs:
            yield from differences(ours[name], theirs[name], f"{where}[{name!r}]")
    elif ours != theirs:
        yield f"{where}: {ours!r:.300} instead of {theirs!r:.300}"


PIPELINES: dict[str, Any] = {}  # "task checkpoint keywords" -> pipeline, which several calls share


def run(call: Call, checkpoint: Callable[[str], str]) -> Any:
    key = f"{call.task} {call.checkpoint} {call.init}"
    if key not in PIPELINES:
        PIPELINES[key] = pipeline(call.task, model=checkpoint(call.checkpoint), **call.init)
    return plain(PIPELINES[key](*[argument(a) for a in call.args], **call.kwargs))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_rebuilt_bit_for_bit(name: str, checkpoint: Callable[[str], str]) -> None:
    assert digest(Path(checkpoint(name))) == GOLDEN["digests"][name]


def test_the_golden_file_answers_these_calls_and_no_others() -> None:
    assert [call.name for call in CALLS] == list(GOLDEN["answers"])


@pytest.mark.parametrize(
    "call", [pytest.param(call, id=call.name[:150], marks=[pytest.mark.slow] * call.rare) for call in CALLS]
)
def test_a_call_gives_what_transformers_4_57_6_gave(call: Call, checkpoint: Callable[[str], str]) -> None:
    theirs = GOLDEN["answers"][call.name]
    expected = [call.error] if call.error else theirs.get("error") if isinstance(theirs, dict) else None
    if expected is not None:
        with pytest.raises(BaseException) as caught:
            run(call, checkpoint)
        classes = [kind.__name__ for kind in type(caught.value).__mro__]
        # Classes of torch and other libraries do not exist here, so the first class of Python's is compared.
        wanted = [name for name in expected if hasattr(builtins, name) or name == "PipelineException"][:1]
        assert not wanted or wanted[0] in classes, f"{caught.value!r} is not a {wanted[0]}: {theirs}"
        return
    differing = list(differences(run(call, checkpoint), theirs))
    assert not differing, f"{call.name}\n" + "\n".join(differing[:5])
