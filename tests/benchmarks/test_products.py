"""Both products are measured, every matrix is used, and the table shows the times."""

import jax.numpy as jnp
import numpy as np
import pytest
from bart_inference.model import onednn

from benchmarks import products


@pytest.mark.skipif(not onednn.available(), reason="this processor or jaxlib has no oneDNN")
def test_both_are_measured(monkeypatch):
    monkeypatch.setattr(products, "AT_ONCE", 1e5)
    assert all(0 < seconds < 10 for seconds in products.measure(4, 48, 100).values())


def test_every_matrix_is_multiplied_with():
    matrices = [jnp.full((3, 5), float(n)) for n in (1, 10)]
    ours = products.chain(lambda x, matrix: x @ matrix)(jnp.ones((2, 3)), matrices)
    assert np.array_equal(ours, np.full((2, 3), 1 + 3 + 10 * 3 * 4))


def test_the_table():
    assert "| 4 | 768 × 3072 | 0.80 | 0.40 | 2.00× | 24 |" in products.report(
        {"768 × 3072": {"D": 768, "F": 3072, "products": [{"rows": 4, "xla": 8e-4, "onednn": 4e-4}]}}
    )
