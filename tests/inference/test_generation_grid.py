"""generate's tokens, scores and log-probabilities equal transformers', for every option alone and for many at once."""

import pytest

from tests.inference.cases import alone, combined
from tests.inference.referee import compare, report


def test_every_option_alone_equals_transformers() -> None:
    print(report([compare(case) for case in alone("uneven")]))


@pytest.mark.parametrize("name", ["uneven", "scaled", "pad-is-0"])
def test_combined_options_equal_transformers(name: str) -> None:
    print(report([compare(case) for case in combined(name, 20, beams=(1, 3))]))
