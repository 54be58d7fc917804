"""What this machine's processor has instructions for, as Linux reports it."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# The x86 instruction sets that multiply a dtype faster than float32; a processor needs one of them. The names are those
# of Linux.
INSTRUCTIONS = {
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
    "bfloat16": ("avx512_bf16", "amx_bf16"),
}


def has_instructions(dtype: str) -> bool:
    """Whether the processor multiplies a dtype of INSTRUCTIONS faster than float32.

    Where the system does not list its instruction sets, an x86 processor counts as having them.
    """
    flags = instruction_sets()
    if not flags:
        return platform.machine() in ("x86_64", "AMD64")
    return not flags.isdisjoint(INSTRUCTIONS[dtype])


@functools.cache
def instruction_sets() -> frozenset[str]:
    """The flags of the first processor in /proc/cpuinfo; empty where there is no such list."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text().splitlines():
            name, _, flags = line.partition(":")
            if name.strip() == "flags":
                return frozenset(flags.split())
    return frozenset()
