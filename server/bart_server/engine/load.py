"""From a checkpoint's path to an engine."""

import hashlib

import bart_inference
import jax
import numpy as np
from bart_inference import Prepared
from tokenizers import Tokenizer

from bart_server.engine.engine import JaxEngine
from bart_server.engine.shapes import Shapes
from bart_server.settings import EMBEDDED, Settings


def load(settings: Settings, path: str) -> tuple[JaxEngine, Tokenizer | None]:
    """Reads a checkpoint folder or hub id. Nothing is compiled yet.

    Raises bart_inference.CheckpointError, or SettingsError for shapes that the checkpoint cannot have.
    """
    model = bart_inference.load(None if path == EMBEDDED else path, settings.dtype, settings.adapter_of(path))
    prepared = bart_inference.prepare(model)
    shapes = Shapes(settings.beams, settings.sampling_beams, settings.sources, settings.target, settings.rows)
    return JaxEngine(prepared, digest(prepared), shapes), prepared.tokenizer


def digest(prepared: Prepared) -> str:
    """A name for the weights that changes when one of them does."""
    sha = hashlib.sha256(repr(prepared.config).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(prepared.weights):
        sha.update(jax.tree_util.keystr(path).encode())
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return f"sha256:{sha.hexdigest()[:16]}"
