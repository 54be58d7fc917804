"""Results do not depend on batch, bucket, padding, neighbors, chunks or layout; a bucket's programs compile once."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from bart_inference import Generated, generate, prepare
from bart_inference.generation.generate import start_decoding
from bart_inference.generation.indexing import top_indices
from bart_inference.generation.options import resolve
from bart_inference.generation.search import decode
from bart_inference.generation.state import hypotheses
from bart_inference.model import onednn

from bart_oneliner import greedy
from tests.inference.cases import OPTIONS, checkpoint, draw_batch

SAME = 1e-5  # scores may differ by this in another shape, because float32 sums are taken in another order
COMPILED = "/jax/core/compile/backend_compile_duration"
WAYS: list[dict[str, Any]] = [
    {"num_beams": 1},
    {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0},
    {"num_beams": 1, "do_sample": True, "seed": 3},
]


def sources(B: int = 3, S: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return draw_batch(np.random.default_rng(seed), 99, 1, B, S)


def assert_same(a: Generated, b: Generated, what: str, tolerance: float = SAME) -> None:
    assert np.array_equal(a.lengths, b.lengths), f"{what}: lengths {a.lengths} and {b.lengths}"
    for name in ("sequences", "log_probs", "sequences_scores"):
        x, y = getattr(a, name), getattr(b, name)
        if x.ndim == 2:
            x, y = x[:, : min(x.shape[1], y.shape[1])], y[:, : min(x.shape[1], y.shape[1])]
        limit = 0 if name == "sequences" else tolerance * np.maximum(1, np.abs(y))
        assert (np.abs(x - y) <= limit).all(), f"{what}: {name} differ by {np.abs(x - y).max():.2e}"


def rows_of(generated: Generated, index: list[int]) -> Generated:
    return Generated(*(array[index] for array in generated))


@pytest.mark.parametrize(
    "forced", [{}, {"forced_bos_token_id": 0}, {"forced_bos_token_id": 7, "forced_eos_token_id": None}]
)
@pytest.mark.parametrize("name", ["uneven", "pad-is-0"])
def test_the_cached_search_is_the_uncached_specification(name: str, forced: dict[str, Any]) -> None:
    twin, prepared = checkpoint(name)
    ids, mask = sources()
    forced = {"forced_eos_token_id": twin.config.eos_token_id, **forced}
    expected = np.asarray(greedy(twin.params, twin.config, ids, mask, max_length=24, **forced))
    generated = generate(prepared, ids, mask, max_length=24, **forced)
    assert np.array_equal(generated.sequences, expected[:, : generated.sequences.shape[1]])
    assert (expected[:, generated.sequences.shape[1] :] == twin.config.pad_token_id).all()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_buckets_batch_size_and_dummy_rows_do_not_matter(way: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = checkpoint("uneven")[1]
    ids, mask = sources()
    expected = generate(prepared, ids, mask, max_length=24, **way)
    padded = np.pad(ids, ((0, 0), (0, 7)), constant_values=1), np.pad(mask, ((0, 0), (0, 7)))
    assert_same(generate(prepared, *padded, max_length=24, **way), expected, "padding in the caller's arrays")
    monkeypatch.setattr("bart_inference.buckets.LENGTHS", (48,))
    monkeypatch.setattr("bart_inference.buckets.TARGETS", (48,))
    monkeypatch.setattr("bart_inference.buckets.BATCHES", (8,))
    assert_same(generate(prepared, ids, mask, max_length=24, **way), expected, "larger buckets")
    per_row = way.get("num_return_sequences", 1)
    alone = generate(prepared, ids[1:2], mask[1:2], max_length=24, **way)
    expected_row = rows_of(expected, list(range(per_row, 2 * per_row)))
    assert_same(alone, expected_row, "a row beside padding rows only")


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_neighbors_do_not_change_a_row_by_a_bit(way: dict[str, Any]) -> None:
    prepared = checkpoint("uneven")[1]
    ids, mask = sources()
    neighbors, their_mask = sources(seed=1)
    others = [{}, {"no_repeat_ngram_size": 2, "top_k": 0}, {"repetition_penalty": 1.5, "bad_words_ids": [[4], [5, 6]]}]
    per_row = way.get("num_return_sequences", 1)
    first = list(range(per_row))
    expected = rows_of(generate(prepared, ids, mask, max_length=24, **way), first)
    changed = np.concatenate([ids[:1], neighbors[1:]]), np.concatenate([mask[:1], their_mask[1:]])
    generated = rows_of(generate(prepared, *changed, options=others, max_length=24, **way), first)
    assert_same(generated, expected, "row 0", tolerance=0)


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_with_different_options_get_together_what_they_get_alone(beams: int) -> None:
    prepared = checkpoint("uneven")[1]
    rng = np.random.default_rng(beams)
    ids, mask = sources(B=4)
    for _ in range(6):
        names = sorted(set(OPTIONS) - {"max_new_tokens"})
        rows = [{name: OPTIONS[name](rng, 99) for name in rng.choice(names, 6, replace=False).tolist()} for _ in ids]
        together = generate(prepared, ids, mask, options=rows, num_beams=beams)
        for i, row in enumerate(rows):
            alone = generate(prepared, ids[[i] * 4], mask[[i] * 4], num_beams=beams, **row)
            n = int(alone.lengths[0])
            assert together.lengths[i] == n, f"{row}: the lengths differ"
            assert np.array_equal(together.sequences[i, :n], alone.sequences[0, :n]), f"{row}: the tokens differ"
            assert np.array_equal(together.log_probs[i, :n], alone.log_probs[0, :n]), f"{row}: the log_probs differ"
            assert together.sequences_scores[i] == alone.sequences_scores[0], f"{row}: the scores differ"


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_decoding_in_chunks_changes_nothing(way: dict[str, Any]) -> None:
    prepared = checkpoint("uneven")[1]
    ids, mask = sources(B=4)
    rows = resolve(prepared.generation, prepared.config, {"max_length": 24, **way}, None, 4)
    results = []
    for chunk in (1, 3, 1000):
        prompts = [[2], [2], [2], [2]]
        state = start_decoding(prepared, ids.astype(np.int32), mask.astype(bool), prompts, rows, [0] * 4)
        while not state.done.all():
            state = decode(prepared.weights, prepared.config, state, chunk, rows[0].do_sample)
        results.append(hypotheses(state))
    assert results[2].length.max() > 6, "all answers are shorter than two chunks"
    for result in results[:2]:
        jax.tree.map(np.testing.assert_array_equal, result, results[2])


def test_nothing_compiles_anew_within_a_bucket() -> None:
    prepared = checkpoint("uneven")[1]
    compiled: list[str] = []
    rng = np.random.default_rng(0)
    for way in WAYS:
        generate(prepared, *sources(B=4), max_length=24, **way)
    jax.monitoring.register_event_duration_secs_listener(lambda name, _, **__: compiled.append(name))
    for way in WAYS:
        for B, S, option in [(3, 5, None), (4, 16, None), *((3, 9, option) for option in sorted(OPTIONS))]:
            options = {"max_length": int(rng.integers(17, 33))}
            options |= {option: OPTIONS[option](rng, 99)} if option else {}
            if "max_new_tokens" in options:
                del options["max_length"]
            generate(prepared, *sources(B, S, seed=S), **way, **options)
    assert compiled.count(COMPILED) == 0
    jax.jit(lambda x: x + len(compiled))(1.0)  # compiles, so the listener must count it
    assert compiled.count(COMPILED) > 0


def test_a_batch_beyond_the_largest_bucket_runs_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = checkpoint("uneven")[1]
    ids, mask = sources(B=11)
    lengths = [{"max_length": n} for n in (18, 19, 30, 18, 19, 20, 21, 18, 18, 18, 18)]
    monkeypatch.setattr("bart_inference.buckets.BATCHES", (4,))
    whole = generate(prepared, ids, mask, options=lengths)
    assert whole.sequences.shape == (11, whole.lengths.max())
    for i in (0, 2, 9):
        alone = generate(prepared, ids[[i] * 4], mask[[i] * 4], **lengths[i])
        assert np.array_equal(whole.sequences[i, : whole.lengths[i]], alone.sequences[0])


@pytest.mark.parametrize("layout", ["onednn"] * onednn.available() + ["gpu", "tpu"])
def test_a_layout_changes_no_token(layout: str) -> None:
    twin, prepared = checkpoint("uneven")
    ids, mask = sources(B=4)
    other = prepare(twin.model, layout=layout)
    assert_same(generate(other, ids, mask, max_length=24), generate(prepared, ids, mask, max_length=24), layout)
    with pytest.raises(ValueError, match="layout 'npu' is not one of"):
        prepare(twin.model, layout="npu")
    assert prepare(other) is other


@pytest.mark.parametrize("n", [1, 4, 20])
@pytest.mark.parametrize("M", [20, 128, 300, 8192, 50265])
def test_the_best_by_blocks_are_the_best(M: int, n: int) -> None:
    """This holds if scores are equal (lower indices come first) and if all but three are -inf, too."""
    noise = np.random.default_rng(M).standard_normal((3, M), np.float32)
    three_finite = np.where(np.arange(M) < 3, noise, -np.inf).astype(np.float32)
    for scores in (noise, np.round(noise), np.zeros_like(noise), three_finite, three_finite[:, ::-1]):
        np.testing.assert_array_equal(jax.jit(top_indices, static_argnums=1)(scores, n), jax.lax.top_k(scores, n)[1])
