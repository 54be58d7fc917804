"""JAX's persistent compile cache for a command that compiles a few programs, writes a few texts and ends.

JAX stores each program under a digest of its code, the compiler's options and the machine. A stored program is machine
code, which runs when JAX finds it, so only trusted users may write to the folder.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

DEFAULT_FOLDER = "~/.cache/bart_oneliner"
MAX_BYTES = 512 * 2**20
MAX_DAYS = 30.0
DAY = 86_400.0  # seconds
# The beginnings of JAX's warnings about its cache.
TROUBLE = ("Error reading persistent compilation cache", "Error writing persistent compilation cache")


def use(folder: str) -> None:
    """Sets JAX's compile cache for this process and deletes old programs from it.

    Raises OSError if the folder cannot be written. Not for the layout "onednn", whose programs JAX cannot store.
    """
    import jax

    path = Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryFile(dir=path):  # raises OSError where JAX could not write either
        pass
    prune(path, "*-cache", MAX_BYTES, MAX_DAYS)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def prune(folder: Path, pattern: str, max_bytes: int, max_days: float) -> None:
    """Deletes files whose names match the pattern: those that are too old, then the oldest until max_bytes are left.

    A file's age counts from its modification time. Raises OSError.
    """
    files = [(path.stat(), path) for path in folder.glob(pattern)]
    size = sum(status.st_size for status, _ in files)

    def modified(file: tuple[os.stat_result, Path]) -> float:
        status, _ = file
        return status.st_mtime

    for status, path in sorted(files, key=modified):
        age = time.time() - status.st_mtime
        if size > max_bytes or age > max_days * DAY:
            with contextlib.suppress(FileNotFoundError):  # another process has deleted it
                path.unlink()
            size -= status.st_size
