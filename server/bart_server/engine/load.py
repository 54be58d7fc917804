"""Reads a checkpoint and makes the engine that serves it."""

import hashlib
import logging
import platform
from collections.abc import Callable
from functools import partial
from importlib import metadata

import bart_inference
import jax
import numpy as np
from bart_inference import Model, Prepared
from bart_inference.model import layout, onednn
from tokenizers import Tokenizer

from bart_server.engine.cache import NoCache, ProgramCache
from bart_server.engine.engine import JaxEngine, essential_first
from bart_server.engine.shapes import Shapes
from bart_server.settings import EMBEDDED, Settings

log = logging.getLogger(__name__)


def load(settings: Settings, path: str) -> tuple[JaxEngine, Tokenizer | None]:
    """The engine of a checkpoint, and its tokenizer or None. path: a folder, a Hugging Face Hub id, or EMBEDDED.

    Nothing is compiled yet. Raises bart_inference.CheckpointError if the checkpoint cannot be read, and SettingsError
    if the settings ask for lengths or beam widths that it cannot have.
    """
    model = bart_inference.load(None if path == EMBEDDED else path, settings.dtype, settings.adapter_of(path))
    warn_without_onednn(model)
    later: Callable[[], Prepared] | None = None
    if settings.compile_cache != "off" and settings.dtype == "float32" and layout.default_layout(model) == "onednn":
        # The cache cannot store programs that call oneDNN. The server starts with programs of XLA's own matrix
        # products, which it can store, and compiles those of oneDNN in the background. In other dtypes than float32
        # XLA's programs would give other answers than oneDNN's.
        prepared = bart_inference.prepare(model, "cpu")
        later = partial(bart_inference.prepare, model, "onednn")
    else:
        prepared = bart_inference.prepare(model)
    shapes = Shapes(settings.beams, settings.sampling_beams, settings.sources, settings.target, settings.rows)
    engine = JaxEngine(prepared, digest(prepared), shapes, essential_first, open_cache(settings), later)
    return engine, prepared.tokenizer


def open_cache(settings: Settings) -> ProgramCache:
    """The compile cache of the settings; nothing is read or written yet."""
    if settings.compile_cache == "off":
        return NoCache()
    return ProgramCache(settings.compile_cache, settings.compile_cache_mb * 2**20, settings.compile_cache_days)


def warn_without_onednn(model: Model) -> None:
    """Logs a warning if oneDNN's matrix product would make the model faster and this jaxlib does not have it.

    jaxlib has that product on x86-64 only, so nothing is logged on other processors.
    """
    dtype = layout.dtype_of(model)  # of int8 and bfloat16 `prepare` says it
    wanted = jax.default_backend() == "cpu" and dtype == "float32" and layout.gains_from_onednn(model, dtype)
    if wanted and platform.machine() in ("x86_64", "AMD64") and not onednn.available():
        log.warning(
            "jaxlib %s has no usable oneDNN product, so weights have XLA's layout: decoding few rows is slower",
            metadata.version("jaxlib"),
        )


def digest(prepared: Prepared) -> str:
    """The model's revision: a hash of its config and weights, so it changes when one weight changes."""
    sha = hashlib.sha256(repr(prepared.config).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(prepared.weights):
        sha.update(jax.tree_util.keystr(path).encode())
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return f"sha256:{sha.hexdigest()[:16]}"
