"""What we rely on in the installed jaxlib beyond JAX's documented interface."""

import platform

import jaxlib
import pytest
from bart_inference.model import onednn


def test_onednn_is_there_on_x86() -> None:
    """Without this test a jaxlib without the call would turn test_onednn.py into skips and make large models slower."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"jaxlib carries oneDNN for x86-64, this is {platform.machine()}")
    assert onednn.available(), f"jaxlib {jaxlib.__version__} has no working {onednn.TARGET}: see docs/upstream.md"
