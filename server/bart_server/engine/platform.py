"""jax's settings. They hold for a whole process, so only `process` makes them, and not a Runtime."""

import contextlib
import logging
import pathlib
import sys
import threading
from collections.abc import Callable

import jax
import numpy as np

from bart_server.engine.store import lower_priority
from bart_server.settings import Settings

log = logging.getLogger(__name__)
WORKED = (
    1_000_000  # nanoseconds of processor time; a thread that spent less did not take part in compiling a small program
)
COMPILATION = "/jax/core/compile/backend_compile_duration"


def set_up(settings: Settings, on_compile: Callable[[], None]) -> Callable[[], None]:
    """Claims the platform and listens to the compiler. Called once, before a model is loaded.

    on_compile: called after XLA has compiled a program, on the thread that asked for it. Raises RuntimeError if the
    platform is not there. Returns a function to call when serving begins: it lowers the priority of compilation.
    """
    threads = set(processor_times())
    claim(settings.platform)
    compilers = find_compilers(threads)

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILATION:
            on_compile()

    jax.monitoring.register_event_duration_secs_listener(listen)

    def serve_first() -> None:
        if compilers:
            lower_priority(*compilers)

    return serve_first


def claim(platform: str) -> None:
    """Makes jax use this platform. Raises RuntimeError if it is not there or another process holds it."""
    jax.config.update("jax_platforms", platform)  # without this jax would fall back to the CPU silently
    try:
        devices = jax.local_devices()
    except Exception as error:  # each platform's plug-in raises a kind of its own
        raise RuntimeError(f"platform {platform} is not available: {str(error) or type(error).__name__}") from error
    log.info("devices", extra={"devices": [str(device) for device in devices]})


def find_compilers(others: set[int]) -> set[int]:
    """Native ids of the threads on which XLA compiles and does nothing else; empty where times of threads are unknown.

    XLA compiles on threads of its own, so lowering the priority of the calling thread is not enough. These threads have
    no names, but they spend far more processor time while a program is compiled than while it runs. Nothing else may
    compute during the call. others: threads that existed before the platform was claimed.
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
    """Nanoseconds that each thread of this process has run, by native id. Empty where the system is not Linux."""
    times = {}
    if sys.platform == "linux":
        for path in pathlib.Path("/proc/self/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # the thread ended meanwhile
                times[int(path.parent.name)] = int(path.read_text().split()[0])
    return times
