"""benchmarks.products measures XLA's product and oneDNN's, uses every matrix, and shows the times in its table."""

import jax.numpy as jnp
import numpy as np
import pytest
from bart_inference.model import onednn

from benchmarks import products


@pytest.mark.skipif(not onednn.available(), reason="this processor or jaxlib has no oneDNN")
def test_both_are_measured(monkeypatch):
    monkeypatch.setattr(products, "AT_ONCE", 1e5)
    seconds = products.measure(4, 48, 100)
    assert set(seconds) >= {"xla", "onednn"} and all(value > 0 for value in seconds.values()), seconds


def test_every_matrix_is_multiplied_with():
    matrices = [jnp.full((3, 5), float(n)) for n in (1, 10)]
    ours = products.chain(lambda x, matrix: x @ matrix)(jnp.ones((2, 3)), matrices)
    assert np.array_equal(ours, np.full((2, 3), 1 + 3 + 10 * 3 * 4))


def test_the_table():
    assert "| 4 | 768 × 3072 | 0.80 | 0.40 | 2.00× | 24 |" in products.report(
        {"768 × 3072": {"D": 768, "F": 3072, "products": [{"rows": 4, "xla": 8e-4, "onednn": 4e-4}]}}
    )
