"""oneDNN's products are right, models in its layout generate transformers' tokens, and `available` detects the call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from bart_inference import Model, load, prepare, score
from bart_inference.generation.generate import jit_prefill
from bart_inference.model import attention, onednn, processor
from bart_inference.model.weights import Dense, Panels

from support.oracle import compare, report
from tests.inference.cases import checkpoint, combined

pytestmark = pytest.mark.skipif(not onednn.available(), reason="this processor or jaxlib has no oneDNN")


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Drops compiled programs before and after each test: the module's settings are fixed in a program when traced."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("rows", [(1,), (5,), (2, 3), (4, 33)], ids=str)
@pytest.mark.parametrize(("D", "F"), [(8, 8), (48, 64), (48, 100), (129, 200), (384, 1152)])
def test_panels_multiply_as_the_matrix(rows: tuple[int, ...], D: int, F: int) -> None:
    rng = np.random.default_rng(D + F)
    x, weight = rng.standard_normal((*rows, D), np.float32), rng.standard_normal((D, F), np.float32)
    panels = onednn.to_panels(weight)
    assert panels.shape == (-(-F // onednn.PANEL), D, onednn.PANEL)
    ours = jax.jit(onednn.multiply, static_argnums=2)(x, panels, F)
    np.testing.assert_allclose(ours, x.astype(float) @ weight, rtol=0, atol=1e-6 * D)


@pytest.mark.parametrize(("T", "n", "m"), [(1, 16, 40), (4, 40, 16), (33, 8, 70)])
def test_heads_multiply_one_by_one(T: int, n: int, m: int) -> None:
    rng = np.random.default_rng(T)
    x, y = rng.standard_normal((3, 5, T, n), np.float32), rng.standard_normal((3, 5, n, m), np.float32)
    expected = x.astype(float) @ y
    np.testing.assert_allclose(jax.jit(onednn.scores)(x, y), expected, rtol=0, atol=1e-6 * n)
    np.testing.assert_allclose(jax.jit(onednn.mix_values)(x, y), expected.swapaxes(1, 2), rtol=0, atol=1e-6 * n)


@pytest.mark.parametrize(("H", "K"), [(6, 8), (12, 64)])
def test_projections_to_heads_are_those_of_the_matrix(H: int, K: int) -> None:
    rng = np.random.default_rng(K)
    x, weight = rng.standard_normal((3, 20, 48), np.float32), rng.standard_normal((48, H * K), np.float32)
    heads = jax.jit(onednn.to_heads)(x, onednn.to_panels(weight, K))
    expected = (x.astype(float) @ weight).reshape(3, 20, H, K).swapaxes(1, 2)
    np.testing.assert_allclose(heads, expected, rtol=0, atol=1e-6 * 48)


@pytest.mark.parametrize("name", ["uneven", "wide"])
def test_generation_equals_transformers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    twin, _ = checkpoint(name)
    prepared = prepare(twin.model, "onednn")
    # So attention uses oneDNN, and one source after the other, in these small shapes too.
    monkeypatch.setattr(onednn, "MIN_ATTENTION_MULTIPLY_ADDS", 0)
    monkeypatch.setattr(onednn, "MIN_SCORES_BY_SOURCE", 0)
    ids = np.full((1, 16), 5, np.int32)
    assert onednn.TARGET in jit_prefill.lower(prepared.weights, prepared.config, ids, ids > 0).as_text()
    print(report([compare(case, twin.torch, prepared) for case in combined(name, 12, beams=(1, 3))]))


@pytest.mark.skipif(not onednn.available("bfloat16"), reason="this processor or jaxlib has no bfloat16 by oneDNN")
@pytest.mark.parametrize("least", [0, onednn.MIN_ATTENTION_MULTIPLY_ADDS], ids=["oneDNN", "XLA"])
def test_a_single_bfloat16_query_attends_as_among_others(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "MIN_ATTENTION_MULTIPLY_ADDS", least)
    rng = np.random.default_rng(0)
    q, keys, values = (rng.standard_normal((2, 3, *shape)).astype(np.float32) for shape in ((5, 8), (8, 40), (40, 8)))
    mask = rng.random((2, 1, 1, 40)) < 0.7
    expected = attention.attend(q, keys, values, mask)
    narrow = [jnp.asarray(x, jnp.bfloat16) for x in (q, keys, values)]
    for t in range(5):
        attended = jax.jit(onednn.attend)(narrow[0][:, :, t : t + 1], *narrow[1:], mask)
        assert attended.shape == (2, 1, 24) and attended.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(attended, np.float32), expected[:, t : t + 1], atol=0.03)


@pytest.mark.skipif(not onednn.available("bfloat16"), reason="this processor or jaxlib has no bfloat16 by oneDNN")
def test_bfloat16_is_that_of_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same roundings of weights and activations; sums and those of attention's products round differently."""
    monkeypatch.setattr(onednn, "MIN_ATTENTION_MULTIPLY_ADDS", 0)
    model = load(dtype="bfloat16")
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(4, 8000, (3, 40)), rng.integers(4, 8000, (3, 20))
    by_xla, by_onednn = (score(prepare(model, layout), ids, None, labels) for layout in ("cpu", "onednn"))
    exact = score(prepare(load()), ids, None, labels)
    rounding = np.abs(by_xla - exact).mean()
    assert 0.002 < rounding < 0.2
    assert np.abs(by_onednn - exact).mean() < 1.3 * rounding


def test_a_cpu_has_it_where_it_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 weights that outgrow the caches, and weights of bfloat16 and int8 on processors made for them."""
    model = checkpoint("uneven")[0].model
    layer = lambda model: prepare(model).weights["decoder"]["layers"][0]["fc1"]["weight"]
    assert isinstance(layer(model), Dense), "a small model has oneDNN's layout"
    monkeypatch.setattr("bart_inference.model.layout.MIN_BYTES_FOR_ONEDNN", 0)
    assert isinstance(layer(model), Panels)
    narrow = Model(jax.tree.map(lambda x: np.asarray(x, ml_dtypes.bfloat16), model.params), *list(model)[1:])
    quantized = model.with_dtype("int8")
    for has_instructions, bfloat16, int8 in ((True, Panels, Panels), (False, Dense, Dense)):
        monkeypatch.setattr(processor, "has_instructions", lambda dtype, has=has_instructions: has)
        assert isinstance(layer(narrow), bfloat16) and isinstance(layer(quantized).integers, int8)
    assert layer(narrow).matrix.dtype == jnp.bfloat16 and layer(quantized).integers.matrix.dtype == jnp.int8
    monkeypatch.setattr(onednn, "available", lambda *_: False)
    assert isinstance(layer(model), Dense), "a model has oneDNN's layout although oneDNN is not available"
    for other in (model, narrow, quantized):
        with pytest.raises(ValueError, match="'onednn' needs a CPU and a jaxlib with oneDNN's product in"):
            prepare(other, "onednn")


def test_a_missing_call_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "TARGET", "__onednn$nothing")
    assert not onednn.available.__wrapped__()
