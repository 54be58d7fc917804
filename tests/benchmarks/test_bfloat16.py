"""The comparison of bfloat16's answers with float32's counts documents and tokens correctly."""

from benchmarks.bfloat16 import compare, shared


def test_tokens_before_the_first_difference() -> None:
    assert shared([2, 5, 6, 7], [2, 5, 6, 7]) == 4
    assert shared([2, 5, 6, 7], [2, 5, 9, 7]) == 2
    assert shared([2, 5, 6, 7], [2, 5]) == 2  # an answer that ends early


def test_shares_are_of_documents_and_of_tokens_without_the_start_token() -> None:
    wide, narrow = [[2, 5, 6, 7], [2, 8, 9]], [[2, 5, 6, 7], [2, 8, 7]]
    assert compare(wide, narrow) == {
        "documents": 2,
        "differing_percent": 50.0,
        "tokens_before_the_first_difference_percent": 80.0,  # 3 of 3 tokens and 1 of 2: 4 of 5
    }
