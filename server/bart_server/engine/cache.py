"""Stores compiled programs in a folder, so that the next start of the server loads them instead of compiling them.

JAX's own compile cache can look up a program only after tracing it, and tracing takes longer than loading. Here the
name of a file is a digest of all that a program depends on: the code, jax, the machine, the model's shapes and the
program's key. Its content is jax's serialized executable. A loaded program is machine code that the server runs, so
whoever can write to the folder can run code as the server.

Several processes may share a folder: a file gets its name when it is complete. If the folder or a file cannot be used,
programs are compiled, and a warning is logged once.
"""

import contextlib
import functools
import hashlib
import importlib
import logging
import os
import pathlib
import pickle
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jaxlib
from bart_inference.compile_cache import prune
from jax.experimental import serialize_executable

from bart_server.scheduling.contract import Bucket

log = logging.getLogger(__name__)
SUFFIX = ".program"
PARTIAL = ".partial"  # the suffix of a file that is being written
DIGEST_BYTES = 32  # a file begins with the SHA-256 digest of the rest of it
ABANDONED = 3600.0  # seconds after which a file that was never completed is deleted
CODE = ("bart_oneliner", "bart_inference", "bart_server.engine")  # packages whose source decides what is compiled
# jax's settings that decide what is compiled
FLAGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")


class ProgramCache:
    """A folder of programs. `prune` leaves at most `max_bytes`, and only programs used within the last `max_days`."""

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int, max_days: float) -> None:
        self._folder = pathlib.Path(folder).expanduser()
        self._max_bytes = max_bytes
        self._max_days = max_days
        self._warned: set[str] = set()  # the kinds of trouble that were logged

    def get_or_compile(self, name: str, compile: Callable[[], Any]) -> Any:
        """The executable of this name, or the one that `compile` makes, which is then stored."""
        executable = self.load(name)
        if executable is None:
            executable = compile()
            self.save(name, executable)
        return executable

    def load(self, name: str) -> Any:
        """The executable of this name, or None if there is no file or its content cannot be used."""
        path = self._path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn_once("read", f"the compile cache cannot be read: {error}")
            return None
        try:
            digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
            if hashlib.sha256(content).digest() != digest:
                raise ValueError("the digest at its beginning is not that of its content")
            executable = serialize_executable.deserialize_and_load(*pickle.loads(content))
        except Exception as error:  # pickle and XLA raise errors of many classes for content that they cannot use
            self._warn_once("damaged", f"a damaged entry of the compile cache is compiled again: {path}: {error}")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # `prune` takes a file's modification time for its last use
        return executable

    def save(self, name: str, executable: Any) -> None:
        """Stores an executable, if jax can serialize it and the folder has room."""
        try:
            content = pickle.dumps(serialize_executable.serialize(executable))
        except Exception as error:
            self._warn_once("serialize", f"a program cannot be stored in the compile cache: {error}")
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write(name, hashlib.sha256(content).digest() + content)
        except OSError as error:
            self._warn_once(
                "write", f"the compile cache cannot be written, programs are compiled at each start: {error}"
            )

    def prune(self) -> None:
        """Deletes programs that were not used for `max_days`, and then the least recently used beyond `max_bytes`."""
        try:
            self._delete_partial()
            prune(self._folder, f"*{SUFFIX}", self._max_bytes, self._max_days)
        except FileNotFoundError:
            pass  # another process pruned the folder at the same time
        except OSError as error:
            self._warn_once("prune", f"the compile cache cannot be pruned: {error}")

    def _delete_partial(self) -> None:
        """Deletes files that a process began to write and did not complete because it was killed."""
        for path in self._folder.glob(f"*{PARTIAL}"):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> pathlib.Path:
        return self._folder / f"{name}{SUFFIX}"

    def _write(self, name: str, data: bytes) -> None:
        """Writes a file under another name and then renames it: another process may read or write the same entry."""
        descriptor, partial = tempfile.mkstemp(dir=self._folder, suffix=PARTIAL)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(partial, self._path(name))
        except BaseException:
            pathlib.Path(partial).unlink(missing_ok=True)
            raise

    def _warn_once(self, kind: str, message: str) -> None:
        """Logs a warning unless one of this kind was logged before."""
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning(message)


class NoCache(ProgramCache):
    """Compiles everything and stores nothing."""

    def __init__(self) -> None:
        super().__init__(os.devnull, 0, 0)

    def get_or_compile(self, name: str, compile: Callable[[], Any]) -> Any:
        return compile()

    def prune(self) -> None:
        pass


def name_of(model: str, key: Hashable) -> str:
    """The name of a program's file, without suffix.

    model: the model's configuration and shapes as text. key: the program's key in the engine's store, a tuple.
    """
    parts: Any = key
    text = [part_text(part) for part in parts]
    return hashlib.sha256("\n".join([environment(), model, *text]).encode()).hexdigest()


def part_text(part: Any) -> str:
    """An element of a program's key as text. Of a bucket it omits row counts and cost, on which no program depends."""
    if isinstance(part, Bucket):
        return f"{part.name} {part.beams} beams, sampling {part.sample}, {part.source} to {part.target}"
    return repr(part)


@functools.cache
def environment() -> str:
    """What programs depend on besides the model: versions, the code, the processor, the devices and jax's settings."""
    devices = jax.local_devices()
    facts = [
        sys.version,
        jax.__version__,
        jaxlib.__version__,
        *(digest_of_code(name) for name in CODE),
        platform.machine(),
        processor(),
        str(os.cpu_count()),
        str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0),
        f"{len(devices)} x {devices[0].device_kind} {devices[0].client.platform_version}",
        *(f"{name}={os.environ.get(name, '')}" for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NPROC")),
        *(f"{name}={getattr(jax.config, name)}" for name in FLAGS),
    ]
    return "\n".join(facts)


def digest_of_code(package: str) -> str:
    """A digest of a package's or module's source files."""
    source = pathlib.Path(str(importlib.import_module(package).__file__))
    files = sorted(source.parent.rglob("*.py")) if source.name == "__init__.py" else [source]
    sha = hashlib.sha256()
    for path in files:
        sha.update(path.read_bytes())
    return sha.hexdigest()


def processor() -> str:
    """The processor's instruction sets as text: a program that was compiled for others might not run."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return platform.processor()
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
