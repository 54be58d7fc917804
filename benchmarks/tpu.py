"""Compiles bart_inference's programs for TPUs from shapes alone, on a machine without a TPU.

libtpu contains the TPU compiler, which needs no TPU. The compiled programs show memory, layouts, operations and
communication as on a TPU, but not how long they take. It needs the `tpu-test` extra.

Letters: B sources of all chips together, N beams of each source, S source positions, T positions of the token buffer.
"""

from __future__ import annotations

import functools
import math
import os
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from bart_inference.devices import ROWS, jit_on_rows, on_rows
from bart_inference.generation.arrays import pack_options
from bart_inference.generation.generate import jit_prefill
from bart_inference.generation.options import resolve
from bart_inference.generation.search import decode, step
from bart_inference.generation.state import State, init_state
from bart_inference.model import transformer
from bart_inference.model.layout import derive
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bart_oneliner import Config, Params, param_shapes
from benchmarks import checkpoints


class Chip(NamedTuple):
    """The published peaks of one chip."""

    flops: float  # bfloat16 operations per second
    bandwidth: float  # bytes per second between the chip and its main memory, HBM
    memory: float  # bytes of HBM


# Source: cloud.google.com/tpu/docs/v5e and cloud.google.com/tpu/docs/v6e, "System architecture".
CHIPS = {"v5e": Chip(197e12, 819e9, 16e9), "v6e": Chip(918e12, 1640e9, 32e9)}
GRIDS = {1: (1, 1, 1), 8: (2, 4, 1)}  # number of chips -> their arrangement on one host
PASSES = 6  # bfloat16 products from which a TPU makes a float32 product at highest precision
CONFIGS = {
    "bart-base": Config(**checkpoints.BASE),
    "bart-large-cnn": Config(**checkpoints.LARGE | {"vocab_size": 50264}),
}
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


class Shape(NamedTuple):
    B: int
    N: int
    S: int
    T: int


@functools.cache
def mesh(name: str) -> Mesh:
    """A mesh of the chips of `name`, such as "v5e-8": eight chips of a TPU v5e."""
    for variable, value in {
        "TPU_SKIP_MDS_QUERY": "1",  # otherwise libtpu asks the metadata server, which only a TPU VM has
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # otherwise libtpu searches for a TPU for minutes
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several processes may compile at a time, since none of them uses a TPU
    }.items():
        os.environ.setdefault(variable, value)
    generation, count = name.split("-")
    grid = GRIDS[int(count)]
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{generation}:{grid[0]}x{grid[1]}", chips_per_host_bounds=grid
    )
    return Mesh(np.array(topology.devices), ("data",))


def weights_of(config: Config, dtype: Any) -> Params:
    """The shapes of the weights in the layout "tpu"."""
    return jax.eval_shape(functools.partial(derive, layout="tpu"), param_shapes(config, dtype))


def source_ids(shape: Shape) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    size = (shape.B, shape.S)
    return jax.ShapeDtypeStruct(size, jnp.int32), jax.ShapeDtypeStruct(size, jnp.bool_)


def state_of(config: Config, weights: Params, shape: Shape) -> State:
    """The shapes of the state of a running search."""
    B, N, _, T = shape
    source = jax.eval_shape(lambda w, *ids: transformer.prefill(w, config, *ids), weights, *source_ids(shape))
    [row] = resolve({}, config, {"num_beams": N, "max_length": T}, None, 1)
    options = pack_options([row] * B, config, T, [1] * B, [0] * B)
    prompts, done = jax.ShapeDtypeStruct((B, T), jnp.int32), jax.ShapeDtypeStruct((B,), jnp.bool_)
    dtype = weights["shared"].dtype
    return jax.eval_shape(lambda *rows: init_state(config, *rows, N, done, dtype), source, prompts, options)


def compiled(program: str, chips: str, config: Config, dtype: Any, shape: Shape) -> Any:
    """Compiles one of PROGRAMS for chips such as "v5e-8"."""
    devices, weights = mesh(chips), weights_of(config, dtype)
    return PROGRAMS[program](devices, config, put(weights, devices, PartitionSpec()), shape).compile()


def put(shapes: Any, devices: Mesh, spec: PartitionSpec = ROWS) -> Any:
    sharding = NamedSharding(devices, spec)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def lower_encode(devices: Mesh, config: Config, weights: Params, shape: Shape) -> Any:
    """Lowers the encoder and the cross-attention's keys and values, which are computed once for each source."""
    return jit_on_rows(devices, jit_prefill).lower(weights, config, *put(source_ids(shape), devices))


def lower_step(devices: Mesh, config: Config, weights: Params, shape: Shape) -> Any:
    """Lowers one step of the search without its loop, for which XLA's cost analysis counts the body only once."""
    state = put(state_of(config, weights, shape), devices)
    run = on_rows(devices, step, (0,), (1, 3))
    return jax.jit(run, static_argnums=(1, 3), donate_argnums=2).lower(weights, config, state, False)


def lower_decode(devices: Mesh, config: Config, weights: Params, shape: Shape) -> Any:
    """Lowers the whole search: the loop that `generate` and the server run."""
    state = put(state_of(config, weights, shape), devices)
    steps = put(jax.ShapeDtypeStruct((), jnp.int32), devices, PartitionSpec())
    return jit_on_rows(devices, decode, (0, 3), (1, 4), (2,)).lower(weights, config, state, steps, False)


PROGRAMS = {"encode": lower_encode, "step": lower_step, "decode": lower_decode}


def nbytes(shapes: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def copies(program: Any, size: int) -> list[str]:
    """The lines of the program's loops that copy an array of at least `size` elements."""
    lines = []
    for computation in re.split(r"\n(?=%|ENTRY)", program.as_text()):
        if computation.startswith(("ENTRY", "HloModule", "%fused")):
            continue
        for line in re.findall(r"= .* copy(?:-start)?\(.*", computation):
            if max(elements(line.split("(")[0]), default=0) >= size:
                lines.append(line)
    return lines


def elements(shapes: str) -> list[int]:
    """The number of elements of each array that HLO text names; scalars are left out."""
    return [product(axes) for axes in re.findall(r"\w\[([\d,]+)\]", shapes)]


def product(axes: str) -> int:
    """The number of elements of an array whose axes are written like "8,16"; 1 for an empty string."""
    return math.prod(int(axis) for axis in axes.split(",") if axis)


INSTRUCTION = re.compile(r"^  (?:ROOT )?(%\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)(?:, |$)", re.M)
MOVES_NOTHING = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant")
WIDTH = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f32": 4, "s32": 4, "u32": 4}  # bytes; XLA fetches some weights as s8


def traffic(program: Any) -> int:
    """Bytes that a program without loops moves between HBM and the chip, counted from its scheduled instructions.

    An array with S(1) in its layout is in the memory on the chip. XLA's "bytes accessed" counts such an array each time
    it is used instead of when it is fetched, and so gives four times the true bytes of a step. Instructions inside
    conditionals are not counted.
    """
    text = program.as_text()
    shapes: dict[str, str] = {}
    total = 0
    for name, shape, kind, operands in INSTRUCTION.findall(text[text.index("\nENTRY") :]):
        shapes[name] = shape
        if kind.endswith("-done"):  # the end of an asynchronous copy, of which one side is HBM
            total += in_bytes(shape)
        elif kind not in MOVES_NOTHING and "-start" not in kind:
            total += in_bytes(shape, hbm=True)
            for operand in re.findall(r"%[\w.\-]+", operands):
                total += in_bytes(shapes.get(operand, ""), hbm=True)
    return total


def in_bytes(shapes: str, hbm: bool = False) -> int:
    """The bytes of all arrays that HLO text names, or, with `hbm`, only of those in HBM."""
    total = 0
    for dtype, axes, layout in re.findall(r"(\w+)\[([\d,]*)\](\{[^}]*\})?", shapes):
        if not (hbm and "S(" in layout):
            total += WIDTH[dtype] * product(axes)
    return total
