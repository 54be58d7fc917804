"""Data parallelism: each device holds all weights and runs some rows of a batch as if there were no other device.

Programs are divided by shard_map rather than by XLA's partitioner. The decoding loop checks at every step whether all
rows have ended. The partitioner would make that an all-reduce over the devices. Under shard_map a device checks only
the rows that it has, and the devices exchange nothing.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bart_oneliner import Params

ROWS = PartitionSpec("data")
HUGE_PAGE = 2**21  # bytes


def data_mesh() -> Mesh:
    """A mesh of one axis, "data", with all devices of this process."""
    return Mesh(np.array(jax.local_devices()), ("data",))


def place(array: np.ndarray) -> jax.Array:
    """A copy of a numpy array on every device of this process."""
    mesh = data_mesh()
    sharding = NamedSharding(mesh, PartitionSpec()) if mesh.size > 1 else None
    placed: jax.Array = jax.device_put(in_huge_pages(array), sharding)
    return placed


def in_huge_pages(array: np.ndarray) -> np.ndarray:
    """A copy of an array in newly mapped memory, for which Linux is asked to use huge pages.

    Decoding reads every weight at every step, and with huge pages fewer address translations have to be looked up. A
    CPU device uses this memory without copying it. It is mapped separately, because inside malloc's heap such large
    blocks would leave gaps when they are freed.
    """
    if array.nbytes < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.array(array)
    memory = mmap.mmap(-1, array.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # raised by a kernel that has no huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    copy = np.frombuffer(memory, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def mesh_of(weights: Params) -> Mesh | None:
    """The mesh of devices that hold the weights; None for a single device."""
    mesh = getattr(weights["shared"].sharding, "mesh", None)
    return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None


def device_count(mesh: Mesh | None) -> int:
    """The number of devices of a mesh; 1 without a mesh."""
    return mesh.size if mesh else 1


def on_rows(
    mesh: Mesh | None, run: Callable[..., Any], shared: Sequence[int] = (0,), static: Sequence[int] = ()
) -> Callable[..., Any]:
    """`run`, with the leading axis of its arguments and results (the rows) divided among the devices of the mesh.

    shared: indices of positional arguments that have no rows and that each device gets whole, such as the weights.
    static: indices of positional arguments that are not arrays.
    """
    if mesh is None or mesh.size == 1:
        return run

    def run_on_mesh(*arguments: Any) -> Any:
        arrays = [i for i in range(len(arguments)) if i not in static]

        def run_on_device(*shards: Any) -> Any:
            local_arguments = list(arguments)
            for i, shard in zip(arrays, shards, strict=True):
                local_arguments[i] = shard
            return run(*local_arguments)

        specs = tuple(PartitionSpec() if i in shared else ROWS for i in arrays)
        mapped = jax.shard_map(run_on_device, mesh=mesh, in_specs=specs, out_specs=ROWS, check_vma=False)
        return mapped(*(arguments[i] for i in arrays))

    return run_on_mesh


@functools.cache
def jit_on_rows(
    mesh: Mesh | None, run: Callable[..., Any], shared: tuple[int, ...] = (0,), static: tuple[int, ...] = (1,),
    donated: tuple[int, ...] = (),
) -> Callable[..., Any]:  # fmt: skip
    """`on_rows` of `run`, jitted; without a mesh, `run` itself, which must be a jitted function.

    donated: indices of arguments whose memory the results may take over.
    """
    if mesh is None:
        return run
    return jax.jit(on_rows(mesh, run, shared, static), static_argnums=static, donate_argnums=donated)
