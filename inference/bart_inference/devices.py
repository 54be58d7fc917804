"""Several devices share the rows of a batch: each holds all weights and runs its own rows as if it were alone.

The loop over steps ends when every row is done. Left to the partitioner, that question and every other one about all
rows would be a reduction over the devices at every step; under shard_map a device asks it of its own rows only, and
nothing is exchanged between devices at all.
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
    """All devices of this process, side by side."""
    return Mesh(np.array(jax.local_devices()), ("data",))


def place(array: np.ndarray) -> jax.Array:
    """A copy of a host's array on every device of this process."""
    mesh = data_mesh()
    where = NamedSharding(mesh, PartitionSpec()) if mesh.size > 1 else None
    return jax.device_put(in_huge_pages(array), where)


def in_huge_pages(array: np.ndarray) -> np.ndarray:
    """A copy of an array for a device to take over, in memory of its own that asks Linux for huge pages.

    A CPU device adopts it and copies nothing. Decoding reads every weight at every step, which takes longer the more
    pages they are in; and memory that does not come from malloc leaves no holes between the weights.
    """
    if array.nbytes < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.array(array)
    memory = mmap.mmap(-1, array.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    copy = np.frombuffer(memory, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def mesh_of(weights: Params) -> Mesh | None:
    """The devices that the weights lie on, None if it is one."""
    mesh = getattr(weights["shared"].sharding, "mesh", None)
    return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None


def device_count(mesh: Mesh | None) -> int:
    return mesh.size if mesh else 1


def on_rows(
    mesh: Mesh | None, run: Callable[..., Any], shared: Sequence[int] = (0,), static: Sequence[int] = ()
) -> Callable[..., Any]:
    """`run` with every device of the mesh running its own rows: the leading axis of all that it takes and returns.

    shared: which positional arguments have no rows, such as the weights; static: which are no arrays.
    """
    if mesh is None or mesh.size == 1:
        return run

    def spread(*arguments: Any) -> Any:
        arrays = [i for i in range(len(arguments)) if i not in static]

        def local(*own: Any) -> Any:
            given = dict(zip(arrays, own, strict=True))
            return run(*(given.get(i, argument) for i, argument in enumerate(arguments)))

        specs = tuple(PartitionSpec() if i in shared else ROWS for i in arrays)
        spread_out = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=ROWS, check_vma=False)
        return spread_out(*(arguments[i] for i in arrays))

    return spread


@functools.cache
def jit_on_rows(
    mesh: Mesh | None, run: Callable[..., Any], shared: tuple[int, ...] = (0,), static: tuple[int, ...] = (1,),
    donated: tuple[int, ...] = (),
) -> Callable[..., Any]:  # fmt: skip
    """A jitted `run` as it is for one device, else on_rows of it, jitted."""
    if mesh is None:
        return run
    return jax.jit(on_rows(mesh, run, shared, static), static_argnums=static, donate_argnums=donated)
