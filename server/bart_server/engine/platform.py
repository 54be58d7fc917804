"""jax's settings, which are of a whole process: only `process` calls this, which owns the device."""

import logging
import pathlib
import warnings
from collections.abc import Callable

import jax

from bart_server.settings import Settings

log = logging.getLogger(__name__)
COMPILATION = "/jax/core/compile/backend_compile_duration"


def set_up(settings: Settings, on_compile: Callable[[], None]) -> None:
    """Claims the platform, names the compilation cache, and listens to the compiler. Once, before anything is loaded.

    on_compile: called whenever XLA compiles a program, on the thread that compiles. Raises RuntimeError if the platform
    is not there.
    """
    claim(settings.platform)
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


def claim(platform: str) -> None:
    """Makes jax use this platform. Raises RuntimeError if it is not there or somebody else holds it."""
    jax.config.update("jax_platforms", platform)  # or jax falls back to the CPU in silence
    try:
        devices = jax.local_devices()
    except Exception as error:  # of whatever kind the platform's plug-in raises
        raise RuntimeError(f"platform {platform} is not available: {str(error) or type(error).__name__}") from error
    log.info("devices", extra={"devices": [str(device) for device in devices]})
