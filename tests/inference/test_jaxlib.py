"""The installed jaxlib has what we use of it beyond JAX's documented interface."""

import platform

import jaxlib
import pytest
from bart_inference.model import onednn


def test_onednn_is_there_on_x86() -> None:
    """If a jaxlib lacked the call, test_onednn.py would only skip its tests, and large models would become slower."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"jaxlib carries oneDNN for x86-64, this is {platform.machine()}")
    assert onednn.available(), f"jaxlib {jaxlib.__version__} has no working {onednn.TARGET}: see docs/upstream.md"
