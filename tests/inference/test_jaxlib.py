"""The installed jaxlib has the undocumented call of oneDNN that the layout `onednn` uses."""

import platform

import jaxlib
import pytest
from bart_inference.model import onednn


def test_onednn_is_there_on_x86() -> None:
    """A jaxlib that lacks the call would go unnoticed otherwise: the tests in test_onednn.py are then skipped."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"jaxlib has oneDNN for x86-64 only, this machine is {platform.machine()}")
    assert onednn.available(), f"jaxlib {jaxlib.__version__} has no working {onednn.TARGET}: see docs/upstream.md"
