"""Runs Python programs in separate processes, for tests of what they import, print, or do on several devices."""

from __future__ import annotations

import os
import subprocess
import sys


def run(program: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python program with this process's import path and environment, and with the variables `environment`."""
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=os.environ | path | environment, capture_output=True, text=True, timeout=timeout)


def run_on_devices(program: str, devices: int) -> subprocess.CompletedProcess[str]:
    """Runs a Python program in a process whose CPU JAX divides into `devices` simulated devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return run(program, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
