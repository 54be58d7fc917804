"""Each compiled program holds memory maps of the process until jax.clear_caches() drops the program.

Linux gives a process a limited number of them. The fixture few_memory_maps in tests/conftest.py relies on this.
"""

from __future__ import annotations

import json

import pytest

from support.process import run
from tests.conftest import MEMORY_MAPS

PROGRAMS = 40
COUNT_MAPS = f"""
import gc, json
import jax, numpy as np

def count_maps():
    with open("{MEMORY_MAPS}") as maps:
        return sum(1 for _ in maps)

x = np.ones(4, np.float32)
jax.jit(lambda x: x + 0.5)(x)  # the first compilation starts XLA's threads, which have memory maps too
before = count_maps()
# The list keeps the functions alive: JAX drops a function's programs together with the function.
functions = [jax.jit(lambda x, n=n: x * n) for n in range({PROGRAMS})]
for function in functions:
    function(x)
compiled = count_maps()
jax.clear_caches()
gc.collect()
print(json.dumps([compiled - before, count_maps() - before]))
"""


@pytest.mark.skipif(not MEMORY_MAPS.exists(), reason=f"this system has no {MEMORY_MAPS}, only Linux has")
def test_compiled_programs_hold_memory_maps_until_the_caches_are_cleared() -> None:
    done = run(COUNT_MAPS, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    held, left = json.loads(done.stdout)
    assert held >= PROGRAMS, f"{PROGRAMS} compiled programs hold {held} memory maps"
    assert left < held / 2, f"jax.clear_caches() leaves {left} of {held} memory maps"
