"""Batches depend on seed and step only, contain every example once an epoch, and have few shapes."""

import numpy as np
from bart_training.data import IGNORED, Batches, collate, round_up


def lengths_and_pairs(n):
    """n random pairs of lengths (source, target), and ids of these lengths, where pair i's target repeats i + 10."""
    rng = np.random.default_rng(0)
    lengths = list(zip(rng.integers(4, 100, n).tolist(), rng.integers(3, 20, n).tolist(), strict=True))
    pairs = []
    for i, (source, target) in enumerate(lengths):
        pairs.append(([0] + [5] * (source - 2) + [2], [0] + [i + 10] * (target - 2) + [2]))
    return lengths, pairs


def make_batches(n=70, seed=0):
    lengths, pairs = lengths_and_pairs(n)

    def make(indices, limit, rng):
        return [(pairs[i][0][:limit], pairs[i][1]) for i in indices]

    return Batches(lengths, make, 8, {32: 0.5, 64: 0.3, 128: 0.2}, [16, 32], 1, seed)


def test_a_batch_depends_on_seed_and_step_alone():
    first, again = make_batches(), make_batches()
    for step in (11, 0, 30, 11):
        for a, b in zip(first(step), again(step), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.indices(3), make_batches(seed=1).indices(3))


def test_an_epoch_visits_every_example_once():
    batches = make_batches(64)
    for epoch in range(2):
        assert sorted(np.concatenate([batches.indices(8 * epoch + i) for i in range(8)])) == list(range(64))


def test_shapes_are_few():
    batches = make_batches()
    drawn = [batches(step) for step in range(60)]
    assert {batch.input_ids.shape[1] for batch in drawn} <= {32, 64, 128}
    assert {batch.labels.shape[1] for batch in drawn} <= {16, 32}


def test_collate_pads_sources_and_ignores_padding_in_labels():
    batch = collate([([0, 7, 2], [0, 8, 9, 2]), ([0, 2], [0, 2])], [4], [6], 1)
    assert batch.input_ids.tolist() == [[0, 7, 2, 1], [0, 2, 1, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert batch.labels.tolist() == [[0, 8, 9, 2, IGNORED, IGNORED], [0, 2] + [IGNORED] * 4]


def test_what_no_bucket_holds_is_cut_with_its_end_token_kept():
    assert round_up(9, [4, 8]) == 8
    assert collate([(list(range(10, 20)) + [2], [0, 2])], [4, 8], [4], 1).input_ids[0].tolist() == [*range(10, 17), 2]
