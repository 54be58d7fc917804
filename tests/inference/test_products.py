"""Every matrix product asks for full float32 on every platform; by default some would use TF32 or bfloat16."""

from __future__ import annotations

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from bart_inference import prepare
from bart_inference.generation.generate import jit_prefill, start_decoding
from bart_inference.generation.options import resolve
from bart_inference.generation.search import decode
from bart_inference.model.weights import Dense
from bart_inference.tasks.fill_mask import run_at_positions
from bart_inference.tasks.question_answering import run_spans

import bart_oneliner
from tests.inference.cases import checkpoint


def programs() -> dict[str, Any]:
    """All programs with matrix products, traced: prefill, `forward`, task heads, and decoding with 1 and 3 beams."""
    twin, _ = checkpoint("uneven")
    prepared = prepare(twin.model, layout="gpu")
    ids = np.full((2, 16), 5, np.int32)
    model = (prepared.weights, prepared.config, ids, ids > 0)
    head = {"qa_outputs": {"weight": Dense(jnp.ones((48, 2))), "bias": jnp.ones(2)}}
    programs = {
        "prefill": jit_prefill.trace(*model),
        "spans": run_spans.trace(prepared.weights | head, *model[1:]),
        "blanks": run_at_positions.trace(*model, ids[:, :2]),
        "forward": bart_oneliner.forward.trace(twin.params, twin.config, ids, ids > 0, ids),
    }
    for N in (1, 3):
        rows = resolve({}, prepared.config, {"num_beams": N, "max_length": 16}, None, 2)
        state = start_decoding(prepared, ids, ids > 0, [[2], [2]], rows, [0, 0])
        programs[f"decode, {N} beams"] = decode.trace(prepared.weights, prepared.config, state, 5, False)
    return programs


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu", "cpu"])
def test_every_product_asks_for_the_highest_precision(platform: str) -> None:
    """Programs can be lowered for platforms that this machine lacks. HIGHEST switches TF32 off on NVIDIA GPUs."""
    for name, traced in programs().items():
        products = re.findall(r"stablehlo\.dot_general.*", traced.lower(lowering_platforms=(platform,)).as_text())
        assert len(products) >= 8, name
        assert [line for line in products if "precision = [HIGHEST, HIGHEST]" not in line] == [], name
