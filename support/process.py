"""Python programs in a process of their own: what is imported there, how many devices it has, and what it prints."""

from __future__ import annotations

import os
import subprocess
import sys


def run(program: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python program with this process's import path and environment, and what is given on top of it."""
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=os.environ | path | environment, capture_output=True, text=True, timeout=timeout)


def run_on_devices(program: str, devices: int) -> subprocess.CompletedProcess[str]:
    """A Python program on so many simulated CPU devices: a process's device count is fixed when it starts."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return run(program, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
