"""From a checkpoint's path to an engine."""

import hashlib
import logging
import platform
from importlib import metadata

import bart_inference
import jax
import numpy as np
from bart_inference import Model, Prepared
from bart_inference.model import layout, onednn
from tokenizers import Tokenizer

from bart_server.engine.engine import JaxEngine
from bart_server.engine.shapes import Shapes
from bart_server.settings import EMBEDDED, Settings

log = logging.getLogger(__name__)


def load(settings: Settings, path: str) -> tuple[JaxEngine, Tokenizer | None]:
    """Reads a checkpoint folder or hub id. Nothing is compiled yet.

    Raises bart_inference.CheckpointError, or SettingsError for shapes that the checkpoint cannot have.
    """
    model = bart_inference.load(None if path == EMBEDDED else path, settings.dtype, settings.adapter_of(path))
    prepared = bart_inference.prepare(model)
    warn_without_onednn(model)
    shapes = Shapes(settings.beams, settings.sampling_beams, settings.sources, settings.target, settings.rows)
    return JaxEngine(prepared, digest(prepared), shapes), prepared.tokenizer


def warn_without_onednn(model: Model) -> None:
    """Logs a warning where `prepare` would have chosen oneDNN's layout and this jaxlib lacks oneDNN's product.

    On other processors than x86-64 jaxlib never has it, so there is nothing to warn of.
    """
    dtype = layout.dtype_of(model)
    size = dtype.itemsize * sum(leaf.size for leaf in jax.tree.leaves(model.tensors))
    wanted = jax.default_backend() == "cpu" and dtype == np.float32 and size > layout.MIN_BYTES_FOR_ONEDNN
    if wanted and platform.machine() in ("x86_64", "AMD64") and not onednn.available():
        log.warning(
            "jaxlib %s has no usable oneDNN product, so weights have XLA's layout: decoding few rows is slower",
            metadata.version("jaxlib"),
        )


def digest(prepared: Prepared) -> str:
    """A name for the weights that changes when one of them does."""
    sha = hashlib.sha256(repr(prepared.config).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(prepared.weights):
        sha.update(jax.tree_util.keystr(path).encode())
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return f"sha256:{sha.hexdigest()[:16]}"
