"""The comparison of a fast mode's answers with float32's counts documents and tokens correctly."""

from benchmarks.quality import BATCH, compare, shared, work_of


def test_tokens_before_the_first_difference() -> None:
    assert shared([5, 6, 7], [5, 6, 7]) == 3
    assert shared([5, 6, 7], [5, 9, 7]) == 1
    assert shared([5, 6, 7], [5]) == 1, "an answer that ends early"


def test_shares_are_of_documents_and_of_tokens() -> None:
    assert compare([[5, 6, 7], [8, 9]], [[5, 6, 7], [8, 7]]) == {
        "differing_percent": 50.0,
        "tokens_before_the_first_difference_percent": 80.0,  # 3 and 1 of 3 and 2
    }


def test_batches_hold_rows_of_similar_length_and_every_row_once() -> None:
    rows = [[5] * (1 + i % 7) for i in range(2 * BATCH + 3)]
    work, order = work_of(rows, {"num_beams": 4})
    batched = [row for batch in work["batches"] for row in batch]
    assert [len(batch) for batch in work["batches"]] == [BATCH, BATCH, 3]
    assert [rows[i] for i in order] == batched and sorted(order) == list(range(len(rows)))
    assert [len(row) for row in batched] == sorted(len(row) for row in rows)
    assert work["options"] == {"num_beams": 4}
