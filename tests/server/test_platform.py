"""XLA's compiling threads get a low priority. Tested in a process of its own, since that affects a whole process."""

import subprocess
import sys

import pytest

PROGRAM = """
import os

import jax
import numpy as np
from bart_server.engine import platform
from bart_server.settings import Settings

serve_first = platform.set_up(Settings(compile_cache="off"), lambda: None)


def niceness():
    return {thread: os.getpriority(os.PRIO_PROCESS, thread) for thread in platform.processor_times()}


def share_of_low(work):
    before = platform.processor_times()
    work()
    spent = {thread: time - before.get(thread, 0) for thread, time in platform.processor_times().items()}
    return sum(spent[thread] for thread in spent if thread in low) / sum(spent.values())


def program(x):
    for i in range(40):
        x = jax.numpy.tanh(x @ x + i) * jax.numpy.sin(x)[::-1]
    return x


normal = niceness()
serve_first()
low = {thread for thread, value in niceness().items() if value > normal.get(thread, value)}
x = np.ones((64, 64), np.float32)
lowered = jax.jit(program).lower(x)
print(share_of_low(lambda: lowered.compile()))
compiled = lowered.compile()
print(share_of_low(lambda: [np.asarray(compiled(x)) for _ in range(100)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_when_requests_are_served_xla_compiles_at_a_low_priority_and_computes_at_the_normal_one():
    command = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    compiling, computing = map(float, ended.stdout.split())
    assert compiling > 0.7, f"{compiling:.0%} of the processor time of compiling is of threads with a low priority"
    assert computing < 0.1, f"{computing:.0%} of the processor time of computing is of threads with a low priority"
