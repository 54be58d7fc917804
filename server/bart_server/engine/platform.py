"""Chooses jax's platform and listens to its compiler.

Both affect the whole process, so only `bart_server.process`, which owns the process, calls this module. A program that
uses `bart_server.runtime.Runtime` sets up jax by itself.
"""

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
# Nanoseconds of processor time. A thread that spent less during the compilation of a small program took no part in it.
MIN_COMPILER_TIME = 1_000_000
COMPILATION = "/jax/core/compile/backend_compile_duration"  # jax's monitoring event after XLA has compiled a program


def set_up(settings: Settings, on_compile: Callable[[], None]) -> Callable[[], None]:
    """Chooses the platform and listens to the compiler. Called once, before a model is loaded.

    on_compile: called after XLA has compiled a program, on the thread that asked for it. Returns a function to call
    when serving begins: it lowers the priority of the threads that compile. Raises RuntimeError if the platform is not
    there.
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
    jax.config.update(
        "jax_platforms", platform
    )  # otherwise jax would use the CPU without an error if the platform failed
    try:
        devices = jax.local_devices()
    except Exception as error:  # each platform's plug-in raises errors of its own classes
        raise RuntimeError(f"platform {platform} is not available: {str(error) or type(error).__name__}") from error
    log.info("devices", extra={"devices": [str(device) for device in devices]})


def find_compilers(others: set[int]) -> set[int]:
    """Native ids of the threads on which XLA compiles and does nothing else. Empty where the system is not Linux.

    XLA compiles on threads of its own, so lowering the priority of the thread that calls the compiler is not enough.
    XLA's threads have no names. Those that compile are recognized by their processor time: far more while a program is
    compiled than while it runs. The process must compute nothing else meanwhile. others: threads that existed before
    jax started its platform.
    """

    def program(x: jax.Array) -> jax.Array:
        for _ in range(8):
            x = jax.numpy.tanh(x @ x) * jax.numpy.sin(x)[::-1]
        return x

    x = np.ones((32, 32), np.float32)
    lowered = jax.jit(program).lower(x)
    before = processor_times()
    compiled = lowered.compile()
    after_compiling = processor_times()
    for _ in range(32):
        jax.block_until_ready(compiled(x))
    after_running = processor_times()
    python_threads = {thread.native_id for thread in threading.enumerate()}
    compilers = set()
    for thread in after_compiling.keys() & after_running.keys() - others - python_threads:
        compiling = after_compiling[thread] - before.get(thread, 0)
        running = after_running[thread] - after_compiling[thread]
        if compiling > max(MIN_COMPILER_TIME, 10 * running):
            compilers.add(thread)
    return compilers


def processor_times() -> dict[int, int]:
    """The processor time of each thread of this process, in nanoseconds, by native id. Empty except on Linux."""
    times = {}
    if sys.platform == "linux":
        for path in pathlib.Path("/proc/self/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # the thread has ended
                times[int(path.parent.name)] = int(path.read_text().split()[0])
    return times
