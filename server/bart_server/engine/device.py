"""Holds a model's weights on this process's devices, and compiles and calls programs there.

With several devices the rows of a batch are spread over them. Each device computes its rows without the others;
devices exchange data only when rows move from one to another.
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

PANELS = "oneDNN panels"  # the layout whose programs call oneDNN
EXCHANGE = threading.Lock()  # held while a program runs in which devices exchange data
Tree = TypeVar("Tree")


class DeviceModel:
    """One model's weights on the devices, and the compilation of programs that use them.

    mesh: the devices. rows: the sharding that spreads an array's first axis, the rows of a batch, over them. default:
    the generation options of a request that sets none. layout: the arrangement of the weights in words, for the log.
    dtype: the name of what products are computed in.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.mesh = data_mesh()
        self.rows = NamedSharding(self.mesh, ROWS)
        self.use(prepared)
        self.config = prepared.config
        self.dtype = prepared.dtype
        self.generation = prepared.generation
        self.labels = prepared.labels
        self.default: Options
        [self.default] = resolve(self.generation, self.config, {}, None, 1)

    def use(self, prepared: Prepared) -> None:
        """Puts weights on the devices.

        Programs compiled from now on use them; earlier programs keep the weights they had.
        """
        self.weights = jax.device_put(prepared.weights, NamedSharding(self.mesh, PartitionSpec()))
        self.layout = layout_of(prepared)

    def identity(self) -> str:
        """What the model's programs depend on, as text: its configuration and shapes, but not the weights' values."""
        leaves, tree = jax.tree.flatten(self.weights)
        shapes = [f"{leaf.dtype}{leaf.shape}" for leaf in leaves]
        return "\n".join([repr(self.config), repr(sorted(self.generation.items())), str(tree), *shapes, str(self.mesh)])

    @property
    def devices(self) -> int:
        return self.mesh.size

    @property
    def cache_dtype(self) -> Any:
        """The dtype of the KV cache."""
        return self.weights["shared"].dtype

    def shapes(self, tree: Any) -> Any:
        """Shapes, dtypes and sharding of a tree of arrays whose first axis is rows, to be passed to `compile`."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.rows), tree)

    def zeros(self, tree: Any) -> Any:
        """Zeros with these shapes, spread over the devices by rows.

        numpy makes them, since jax would compile a program.
        """
        return jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), self.rows), tree)

    def compile(
        self, run: Callable[..., Any], *arguments: Any, shared: Sequence[int] = (0,), donated: Sequence[int] = ()
    ) -> Any:
        """The executable of `run` for arguments of these shapes, with its results spread over the devices by rows.

        shared: the indexes of the arguments that every device has whole, such as the weights. donated: the indexes of
        the arguments whose memory the results may reuse.
        """
        spread = on_rows(self.mesh, run, shared=shared)
        program = jax.jit(spread, out_shardings=self.rows, donate_argnums=tuple(donated))
        return program.lower(*arguments).compile()

    def compile_once(self, run: Callable[..., tuple[Any]], *arrays: np.ndarray) -> Any:
        """The executable of `run(weights, config, *arrays)[0]` for arrays (B,…) of these shapes and dtypes.

        The executable takes the weights and the arrays.
        """

        def first(weights: Any, *rows: Any) -> Any:
            return run(weights, self.config, *rows)[0]

        return self.compile(first, self.weights, *self.shapes(arrays))

    def exchanged(self, run: Callable[..., Tree], *arguments: Any) -> Tree:
        """The result of `run`, a program in which devices exchange data.

        Only one such program runs at a time: two at once could each hold some devices and wait for the others forever.
        """
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
    """The weights' layout in words, for the log."""
    return PANELS if prepared.weights["attention"] is Attention.ONEDNN else "XLA"
