"""Programs on simulated devices, in a process of their own: a process's device count is fixed."""

import os
import subprocess
import sys


def run(program: str, devices: int) -> subprocess.CompletedProcess[str]:
    """A Python program on so many CPU devices, with this process's import path."""
    environment = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=600)
