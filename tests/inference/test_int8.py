"""int8: exact integer products, bounded rounding, every large product in int8, and answers that hold together."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bart_inference import Model, Prepared, generate, load, prepare, save, score, summarize
from bart_inference.generation.generate import jit_prefill, start_decoding
from bart_inference.generation.options import resolve
from bart_inference.generation.search import decode
from bart_inference.generation.stream import stream
from bart_inference.model import layout as layouts
from bart_inference.model import onednn, processor
from bart_inference.model.weights import Dense, Int8, Panels, linear, matmul, panels_to_heads, quantize, to_heads
from bart_inference.tokenization import encode_text

from tests.inference.cases import checkpoint
from tests.inference.test_lookup import DOCUMENTS

needs_onednn = pytest.mark.skipif(not onednn.available("int8"), reason="this processor or jaxlib has no int8 by oneDNN")
LAYOUTS = ["cpu", pytest.param("onednn", marks=needs_onednn)]
# A float32 sum that rounds differently can round to another whole number, which changes a log-probability by this much.
TOLERANCE = 0.03
MARGIN = 2 * TOLERANCE  # two tokens whose log-probabilities are closer than this may change places


def whole_numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-127, 128, shape).astype(np.int8)


def int8_weight(matrix: np.ndarray, layout: str, width: int = onednn.PANEL) -> Int8:
    """A float32 matrix as `prepare` quantizes it."""
    integers, scale = quantize(matrix, axis=0)
    if layout == "onednn":
        return Int8(Panels(jnp.asarray(onednn.to_panels(integers, width)), matrix.shape[1]), jnp.asarray(scale[0]))
    return Int8(Dense(jnp.asarray(integers)), jnp.asarray(scale[0]))


# ── Products ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [(1,), (5,), (2, 3), (4, 33)], ids=str)
@pytest.mark.parametrize(("D", "F"), [(8, 8), (48, 100), (129, 200), (3072, 768)])
def test_integer_products_are_exact(layout: str, rows: tuple[int, ...], D: int, F: int) -> None:
    """The largest numbers are among them: (3072,768) has sums beyond 2**24, which float32 could not hold exactly."""
    rng = np.random.default_rng(D + F)
    x, matrix = whole_numbers(rng, *rows, D), whole_numbers(rng, D, F)
    x[..., 0, :], matrix[:, 0] = 127, 127
    weight = Panels(onednn.to_panels(matrix), F) if layout == "onednn" else Dense(matrix)
    product = jax.jit(functools.partial(matmul, dtype=jnp.int32))(x, weight)
    assert product.dtype == jnp.int32
    np.testing.assert_array_equal(product, x.astype(np.int32) @ matrix.astype(np.int32))


@needs_onednn
@pytest.mark.parametrize(("H", "K"), [(6, 8), (12, 64)])
def test_integer_products_to_heads_are_exact(H: int, K: int) -> None:
    rng = np.random.default_rng(K)
    x, matrix = whole_numbers(rng, 3, 20, 48), whole_numbers(rng, 48, H * K)
    heads = jax.jit(functools.partial(onednn.to_heads, dtype=jnp.int32))(x, onednn.to_panels(matrix, K))
    expected = (x.astype(np.int32) @ matrix.astype(np.int32)).reshape(3, 20, H, K).swapaxes(1, 2)
    np.testing.assert_array_equal(heads, expected)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("module", [np, jnp])
def test_quantization_is_off_by_at_most_half_a_scale(axis: int, module: Any) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 30)).astype(np.float32) * np.exp(rng.standard_normal((40, 1))).astype(np.float32)
    integers, scale = quantize(module.asarray(x), axis)
    assert integers.dtype == np.int8 and scale.dtype == np.float32
    largest = np.abs(x).max(axis, keepdims=True)
    np.testing.assert_allclose(scale, largest / 127, rtol=1e-6)
    assert (np.abs(np.asarray(integers, np.float64) * scale - x) <= 0.5001 * np.asarray(scale)).all()
    assert (np.abs(np.asarray(integers, int)).max(axis) == 127).all(), "the whole range is used"


def test_zeros_stay_zeros_and_what_is_not_finite_shows() -> None:
    x = np.ones((4, 8), np.float32)
    x[0], x[1, 3], x[2, 5] = 0, np.nan, np.inf
    integers, scale = quantize(x, -1)
    assert not integers[0].any() and np.isfinite(scale[0])
    assert not np.isfinite(scale[1:3]).any()
    weight = int8_weight(np.ones((8, 5), np.float32), "cpu")
    assert np.isfinite(matmul(x, weight)).all(1).tolist() == [True, False, False, True]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_a_product_is_within_the_bound_of_its_rounding(layout: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    x, matrix = rng.standard_normal((rows, 200)).astype(np.float32), rng.standard_normal((200, 100)).astype(np.float32)
    product = jax.jit(matmul)(x, int8_weight(matrix, layout))
    assert product.dtype == jnp.float32
    x_error = np.abs(x).max(1, keepdims=True) / 254  # the most by which an element is rounded
    matrix_error = np.abs(matrix).max(0) / 254
    bound = (np.abs(x) + x_error) @ np.broadcast_to(matrix_error, matrix.shape) + x_error * np.abs(matrix).sum(0)
    error = np.abs(np.asarray(product, np.float64) - x.astype(np.float64) @ matrix)
    assert (error <= 1.0001 * bound).all()
    assert error.mean() > 1e-4, "nothing was quantized"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_has_the_same_product_alone_and_among_others(layout: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((33, 129)).astype(np.float32)
    weight = int8_weight(rng.standard_normal((129, 200)).astype(np.float32), layout)
    product = jax.jit(matmul)
    np.testing.assert_array_equal(product(x, weight)[5:8], product(x[5:8], weight))


@needs_onednn
def test_projections_to_heads_are_those_of_the_whole_product() -> None:
    rng = np.random.default_rng(2)
    x, matrix = rng.standard_normal((2, 20, 48)).astype(np.float32), rng.standard_normal((48, 96)).astype(np.float32)
    weight, bias = int8_weight(matrix, "onednn", width=8), rng.standard_normal(96).astype(np.float32)
    assert panels_to_heads(x, weight).shape == (2, 12, 20, 8)
    q, k = to_heads(x, {"weight": weight, "bias": bias}, 6)
    fused = np.asarray(linear(x, weight, bias))
    for heads, columns in ((q, fused[..., :48]), (k, fused[..., 48:])):
        np.testing.assert_array_equal(heads, columns.reshape(2, 20, 6, 8).swapaxes(1, 2))


# ── The model ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def products(program: Any) -> tuple[int, list[str]]:
    """The number of products of int8 matrices in a traced program, and the text of the other products."""
    text = program.lower().as_text()
    lines = [line for line in text.splitlines() if "dot_general" in line or onednn.TARGET in line]
    of_int8 = [line for line in lines if len(re.findall(r"tensor<[\dx]*xi8>", line)) == 2]
    return len(of_int8), [line for line in lines if line not in of_int8]


@pytest.mark.parametrize("layout", [*LAYOUTS, "gpu", "tpu"])
def test_every_product_but_those_of_attention_is_in_int8(layout: str) -> None:
    """Products of attention are the only ones with two arrays of four axes, rows and heads among them."""
    prepared = prepare(checkpoint("uneven")[0].model, layout, "int8")
    config, ids = prepared.config, np.full((2, 20), 5, np.int32)
    prefill, others = products(jit_prefill.trace(prepared.weights, config, ids, ids > 0))
    assert prefill == 4 * config.encoder_layers + config.decoder_layers, "keys and values of cross-attention are one"
    assert len(others) == 2 * config.encoder_layers
    for N in (1, 3):
        rows = resolve({}, config, {"num_beams": N, "max_length": 16}, None, 2)
        state = start_decoding(prepared, ids, ids > 0, [[2], [2]], rows, [0, 0])
        step, more = products(decode.trace(prepared.weights, config, state, 5, False))
        assert step == 6 * config.decoder_layers + 1, f"{N} beams: the head is one"
        others += more
    for line in others:
        assert len(re.findall(r"tensor<\d+x\d+x\d+x\d+xf32>", line)) >= 2, line


@pytest.mark.parametrize("layout", LAYOUTS)
def test_matrices_take_a_quarter_of_the_bytes(layout: str) -> None:
    model = checkpoint("wide")[0].model

    def matrices(prepared: Prepared, kind: type) -> int:
        """The bytes of all leaves that are matrices of a type. Those of task heads are none in this model."""
        leaves = jax.tree.leaves(prepared.weights, is_leaf=lambda node: isinstance(node, kind))
        return sum(array.nbytes for leaf in leaves if isinstance(leaf, kind) for array in jax.tree.leaves(leaf))

    kind = Panels if layout == "onednn" else Dense
    whole, small = prepare(model, layout), prepare(model, layout, "int8")
    assert 4 * matrices(small, kind) == matrices(whole, kind)
    scales = matrices(small, Int8) - matrices(small, kind)
    assert 0 < scales < 0.2 * matrices(small, kind)
    assert small.weights["shared"].dtype == np.float32, "the embedding is looked up in float32"


@pytest.mark.parametrize("layout", [*LAYOUTS[1:], "gpu", "tpu"])
def test_a_layout_changes_log_probabilities_by_roundings_only(layout: str) -> None:
    model = load()
    ids, labels = np.array([rows_of(model)[0]]), np.array([[5, 900, 77, 3000, 2]])
    expected = score(prepare(model, "cpu", "int8"), ids, None, labels)
    np.testing.assert_allclose(score(prepare(model, layout, "int8"), ids, None, labels), expected, atol=TOLERANCE)
    assert np.abs(expected - score(prepare(model), ids, None, labels)).max() < 0.5, "far from float32"


@functools.cache
def embedded() -> Prepared:
    return prepare(load(dtype="int8"))


def rows_of(model: Model | Prepared) -> list[list[int]]:
    assert model.tokenizer is not None
    return [encode_text(model.tokenizer, document) for document in DOCUMENTS]


def assert_same_unless_near(ids: list[int], one: np.ndarray, other: np.ndarray) -> None:
    """Two answers to a source are equal, or the tokens at their first difference are about equally likely."""
    width = min(len(one), len(other))
    differing = np.flatnonzero(one[:width] != other[:width])
    if not len(differing):
        assert len(one) == len(other)
        return
    t = differing[0]
    likely = []
    for answer in (one, other):  # column 0 is the start token, which labels leave out
        likely.append(score(embedded(), np.array([ids]), None, answer[None, 1 : t + 1])[0, -1])
    assert abs(likely[0] - likely[1]) < MARGIN, f"tokens differ at {t}, log-probabilities {likely}"


@pytest.mark.parametrize("count", [2, 4, 1000])
def test_lookup_decoding_gives_the_tokens_of_one_token_a_step(count: int) -> None:
    for ids in rows_of(embedded()):
        greedy = generate(embedded(), [ids], num_beams=1, prompt_lookup_num_tokens=0)
        lookup = generate(embedded(), [ids], num_beams=1, prompt_lookup_num_tokens=count)
        assert_same_unless_near(ids, greedy.sequences[0], lookup.sequences[0])
        if np.array_equal(greedy.sequences, lookup.sequences):
            np.testing.assert_allclose(lookup.log_probs, greedy.log_probs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 4}], ids=str)
def test_a_source_has_the_answer_that_it_has_in_a_batch(options: Mapping[str, Any]) -> None:
    rows = rows_of(embedded())
    width = max(map(len, rows))
    ids = np.array([row + [1] * (width - len(row)) for row in rows])
    whole = generate(embedded(), ids, ids != 1, **options)
    for i, row in enumerate(rows):
        alone = generate(embedded(), [row], **options)
        answer = whole.sequences[i, : whole.lengths[i]]
        assert_same_unless_near(row, alone.sequences[0, : alone.lengths[0]], answer)


def test_a_stream_is_the_text_of_summarize_and_close_to_float32s() -> None:
    exact = prepare(load())
    same = 0
    for document in DOCUMENTS:
        text = summarize(embedded(), document)
        assert "".join(stream(embedded(), document, 3)) == text
        same += text == summarize(exact, document)
    assert same >= 2, "more than one of three summaries is another one in int8"


# ── Loading and preparing ─────────────────────────────────────────────────────────────────────────────────────────────


def test_load_and_prepare_mean_the_same_by_int8() -> None:
    model = load(dtype="int8")
    one, other = prepare(model), prepare(load(), dtype="int8")
    assert one.dtype == other.dtype == "int8"
    assert jax.tree.structure(one.weights) == jax.tree.structure(other.weights)
    jax.tree.map(np.testing.assert_array_equal, one.weights, other.weights)
    assert prepare(one) is prepare(one, dtype="int8") is one
    assert prepare(model, dtype="float32").dtype == prepare(load()).dtype == "float32", "float32 is the default"
    assert prepare(model, dtype="bfloat16").dtype == "bfloat16"


def test_the_parameters_of_an_int8_model_are_float32_and_saved_as_they_were(tmp_path: Path) -> None:
    model = load(dtype="int8")
    assert type(model.params) is dict
    jax.tree.map(np.testing.assert_array_equal, model.params, load().params)
    save(model, tmp_path)
    again = load(tmp_path, dtype="int8")
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    jax.tree.map(np.testing.assert_array_equal, prepare(again).weights, embedded().weights)


def test_a_wrong_dtype_is_refused_with_the_right_ones() -> None:
    model = checkpoint("uneven")[0].model
    with pytest.raises(ValueError, match=r"dtype 'int4' is not one of \['bfloat16', 'float32', 'float64', 'int8'\]"):
        prepare(model, dtype="int4")
    with pytest.raises(ValueError, match="dtype 'int8' is not that of the prepared model, 'float32'"):
        prepare(prepare(model), dtype="int8")


@pytest.fixture
def old_processor(monkeypatch: pytest.MonkeyPatch):
    """A processor without instructions for int8 and bfloat16; nothing was said about it yet."""
    monkeypatch.setattr(processor, "instruction_sets", lambda: frozenset({"sse2", "avx2", "avx512f"}))
    layouts.warn_if_slow.cache_clear()
    yield
    layouts.warn_if_slow.cache_clear()


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_a_mode_that_is_slower_on_this_processor_says_so_once(
    dtype: str, old_processor: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "bart_inference"):
        model = checkpoint("uneven")[0].model
        for _ in range(2):
            prepared = prepare(model, dtype=dtype)
        prepare(model)
    assert prepared.weights["attention"] is prepare(model, "cpu").weights["attention"], "not in panels"
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"dtype {dtype} is slower than float32 here")
    assert all(name in message for name in processor.INSTRUCTIONS[dtype])


def test_the_instruction_sets_are_those_that_linux_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "CPU_INFO", listed)
    read = processor.instruction_sets.__wrapped__
    assert read() == frozenset(), "a system without such a list"
    listed.write_text("processor\t: 0\nmodel name\t: avx_vnni: a name\nflags\t\t: fpu amx_int8 sse2\nbugs\t\t: x\n")
    assert read() == {"fpu", "amx_int8", "sse2"}
