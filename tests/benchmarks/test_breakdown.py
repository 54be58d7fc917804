"""benchmarks.breakdown assigns the operations of compiled programs to the right kinds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bart_inference import prepare
from bart_inference.generation.generate import jit_prefill, resolve, start_decoding
from bart_inference.generation.search import decode
from bart_inference.model import onednn

from benchmarks import breakdown
from tests.inference.cases import checkpoint

LAYOUTS = ["cpu", pytest.param("onednn", marks=pytest.mark.skipif(not onednn.available(), reason="no oneDNN here"))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_steps_products_are_told_apart(layout):
    twin, _ = checkpoint("wide")
    prepared = prepare(twin.model, layout)
    ids = np.full((2, 16), 5, np.int32)
    rows = resolve(prepared.generation, prepared.config, {"num_beams": 3}, None, 2)
    state = start_decoding(prepared, ids, ids > 0, [[2]] * 2, rows, [0] * 2)
    text = decode.lower(prepared.weights, prepared.config, state, np.int32(1), False).compile().as_text()
    fields = dataclasses.asdict(prepared.config)
    counted = dict.fromkeys(breakdown.KINDS, 0)
    for opcode, shape, source in breakdown.operations(text).values():
        product = opcode == "dot" or opcode == "custom-call" or "dot_general" in source
        counted[breakdown.kind(opcode, shape, source, fields)] += product
    layers = prepared.config.decoder_layers
    assert counted["output embedding"] >= 1, counted
    assert counted["layers' products"] >= 6 * layers, counted
    assert counted["attention"] >= 4 * layers, counted


def test_an_encodings_products_are_told_apart():
    twin, _ = checkpoint("wide")
    prepared = prepare(twin.model, "onednn" if onednn.available() else "cpu")
    ids = np.full((3, 16), 5, np.int32)
    text = jit_prefill.lower(prepared.weights, prepared.config, ids, ids > 0).compile().as_text()
    kinds = [
        breakdown.kind(opcode, shape, source, dataclasses.asdict(prepared.config))
        for opcode, shape, source in breakdown.operations(text).values()
        if opcode in ("custom-call", "dot") or "dot_general" in source
    ]
    encoder, decoder = prepared.config.encoder_layers, prepared.config.decoder_layers
    assert kinds.count("layers' products") >= 4 * encoder + decoder, kinds
    assert kinds.count("attention") >= 2 * encoder, kinds
    assert "output embedding" not in kinds


def test_operations_of_no_model_are_the_rest():
    program = jax.jit(lambda x: jnp.sin(x @ x) @ x).lower(jnp.ones((300, 300))).compile()
    fields = {"vocab_size": 1000, "encoder_attention_heads": 7, "decoder_attention_heads": 7, "d_model": 28}
    by_kind, seconds = breakdown.traced(lambda: program(jnp.ones((300, 300))), program.as_text(), fields)
    assert set(by_kind) == set(breakdown.KINDS)
    assert seconds > by_kind["rest"] > 0 == by_kind["attention"] == by_kind["output embedding"]


def test_the_table():
    kinds = dict.fromkeys(breakdown.KINDS, 0.001)
    part = {"kinds": kinds, "seconds": 0.006, "limit_seconds": 0.003}
    lines = breakdown.report({"base-b1-greedy-s512": {"encoding": part, "step": part}}).splitlines()
    assert lines[3] == "| base-b1-greedy-s512, step | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 6.0 | 3.0 |"
