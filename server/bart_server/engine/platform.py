"""jax's settings, which are of a whole process: only `process` calls this, which owns the device."""

import contextlib
import logging
import pathlib
import sys
import threading
import warnings
from collections.abc import Callable

import jax
import numpy as np

from bart_server.engine.store import lower_priority
from bart_server.settings import Settings

log = logging.getLogger(__name__)
WORKED = 1_000_000  # nanoseconds of processor time from which a thread took part in compiling a small program
COMPILATION = "/jax/core/compile/backend_compile_duration"


def set_up(settings: Settings, on_compile: Callable[[], None]) -> Callable[[], None]:
    """Claims the platform, names the compilation cache, and listens to the compiler. Once, before anything is loaded.

    on_compile: called whenever XLA compiles a program, on the thread that asks for it. Raises RuntimeError if the
    platform is not there. Returns what to call when requests are served: from then on compilation has a low priority.
    """
    threads = set(processor_times())
    claim(settings.platform)
    compilers = find_compilers(threads)
    if settings.compile_cache != "off":
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(settings.compile_cache).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        # jaxlib cannot store programs that call oneDNN, and says so for each; what it can store, it does.
        warnings.filterwarnings("ignore", "Error writing persistent compilation cache .* MemoryError: std::bad_alloc")

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILATION:
            on_compile()

    jax.monitoring.register_event_duration_secs_listener(listen)

    def serve_first() -> None:
        if compilers:
            lower_priority(*compilers)

    return serve_first


def claim(platform: str) -> None:
    """Makes jax use this platform. Raises RuntimeError if it is not there or somebody else holds it."""
    jax.config.update("jax_platforms", platform)  # or jax falls back to the CPU in silence
    try:
        devices = jax.local_devices()
    except Exception as error:  # of whatever kind the platform's plug-in raises
        raise RuntimeError(f"platform {platform} is not available: {str(error) or type(error).__name__}") from error
    log.info("devices", extra={"devices": [str(device) for device in devices]})


def find_compilers(others: set[int]) -> set[int]:
    """The threads on which XLA compiles and which do nothing else, by their native ids; none where that cannot be seen.

    XLA compiles on threads of its own, so the priority of the thread that asks does not count. Nothing names these
    threads, but they spend far more processor time while a program is compiled than while it runs. To be called while
    nothing else computes. others: the threads that were there before the platform was claimed.
    """

    def program(x: jax.Array) -> jax.Array:
        for _ in range(8):
            x = jax.numpy.tanh(x @ x) * jax.numpy.sin(x)[::-1]
        return x

    x = np.ones((32, 32), np.float32)
    lowered = jax.jit(program).lower(x)
    before = processor_times()
    compiled = lowered.compile()
    between = processor_times()
    for _ in range(32):
        jax.block_until_ready(compiled(x))
    after = processor_times()
    python = {thread.native_id for thread in threading.enumerate()}
    return {
        thread
        for thread in between.keys() & after.keys() - others - python
        if between[thread] - before.get(thread, 0) > max(WORKED, 10 * (after[thread] - between[thread]))
    }


def processor_times() -> dict[int, int]:
    """Nanoseconds that each thread of this process has run, by its native id; Linux only, else nothing."""
    times = {}
    if sys.platform == "linux":
        for path in pathlib.Path("/proc/self/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # the thread has ended
                times[int(path.parent.name)] = int(path.read_text().split()[0])
    return times
