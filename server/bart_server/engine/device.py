"""A model's weights on this process's devices, and what its tasks need to compile and call programs.

With several devices the rows of a batch are spread over them. A device computes its own rows by itself; devices
exchange data only when rows move from one to another.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from bart_inference import Options, Prepared
from bart_inference.devices import ROWS, data_mesh, on_rows
from bart_inference.generation.options import resolve
from bart_inference.model.weights import Attention
from jax.sharding import NamedSharding, PartitionSpec

EXCHANGE = threading.Lock()  # held by a program in which devices exchange data
Tree = TypeVar("Tree")


class DeviceModel:
    """default: the options of a request that sets none. rows: the sharding of arrays whose first axis is rows.

    layout: of the weights, for the log.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.mesh = data_mesh()
        self.rows = NamedSharding(self.mesh, ROWS)
        self.weights = jax.device_put(prepared.weights, NamedSharding(self.mesh, PartitionSpec()))
        self.config = prepared.config
        self.generation = prepared.generation
        self.labels = prepared.labels
        self.layout = layout_of(prepared)
        self.default: Options
        [self.default] = resolve(self.generation, self.config, {}, None, 1)

    @property
    def devices(self) -> int:
        return self.mesh.size

    @property
    def dtype(self) -> Any:
        return self.weights["shared"].dtype

    def shapes(self, tree: Any) -> Any:
        """The shapes of a tree of arrays with rows, for `compile`."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.rows), tree)

    def zeros(self, tree: Any) -> Any:
        """Zeros of these shapes on the devices; nothing is compiled for them."""
        return jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), self.rows), tree)

    def compile(
        self, run: Callable[..., Any], *arguments: Any, shared: Sequence[int] = (0,), donated: Sequence[int] = ()
    ) -> Any:
        """The executable of `run` for these shapes, its results spread over the devices by rows.

        shared: which arguments have no rows, such as the weights. donated: whose memory the result may take.
        """
        spread = on_rows(self.mesh, run, shared=shared)
        program = jax.jit(spread, out_shardings=self.rows, donate_argnums=tuple(donated))
        return program.lower(*arguments).compile()

    def compile_once(self, run: Callable[..., tuple[Any]], *arrays: np.ndarray) -> Any:
        """The executable of `run(weights, config, …)` for arrays (B,…) such as these; it takes the weights and them."""

        def first(weights: Any, *rows: Any) -> Any:
            return run(weights, self.config, *rows)[0]

        return self.compile(first, self.weights, *self.shapes(arrays))

    def exchanged(self, run: Callable[..., Tree], *arguments: Any) -> Tree:
        """The result of a program in which devices exchange data. Two of them at once could wait for each other."""
        if self.devices == 1:
            return run(*arguments)
        with EXCHANGE:
            result: Tree = jax.block_until_ready(run(*arguments))
            return result


def padded_sources(sources: Sequence[Sequence[int]], rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (rows,length) int32 and their mask, bool; padding is 0 and False."""
    ids = np.zeros((rows, length), np.int32)
    mask = np.zeros((rows, length), np.bool_)
    for row, source in enumerate(sources):
        ids[row, : len(source)] = source
        mask[row, : len(source)] = True
    return ids, mask


def layout_of(prepared: Prepared) -> str:
    """In words, what the weights' layout is made for."""
    if prepared.weights["attention"] is Attention.ONEDNN:
        return "oneDNN panels"
    return "XLA"
