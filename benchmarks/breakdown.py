"""Shows where the time of a cell goes: XLA's trace of one encoding and of some decoder steps, by kind of operation.

    JAX_PLATFORMS=cpu python -m benchmarks.breakdown base-b1-greedy-s512 base-b8-beam4-s512 --record FOLDER

Each operation of the compiled program has one kind, which its metadata and shape decide: products with the weights of
the layers; the product with the output embedding; attention (everything that has an axis of keys or heads); the choice
of tokens (everything else that has an axis of the vocabulary); the rest (norms, activations, caches). "In no operation"
is the time between operations, for waiting and for starting them. An operation's time is that from its start to its
end on its thread, including waiting for other threads. Tracing adds a few percent. The table also has the limit: the
least time that the machine needs for the work (benchmarks/counts.py), with the bandwidth and throughput that are
measured in the same run. The record is results.json.
"""

from __future__ import annotations

import itertools
import math
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bart_inference.model import onednn

from benchmarks.cells import CELLS, NEW, Cell, measures_of, work_of
from benchmarks.checkpoints import TINY, cache_of, fields_of, folder_of
from benchmarks.counts import Machine, prefill_seconds, step_seconds
from benchmarks.machine import bandwidth, circumstances, throughput
from support.records import Command

STEPS = 12
KINDS = ("layers' products", "output embedding", "attention", "choice of tokens", "rest", "in no operation")
NESTING = ("while", "conditional", "call")  # not counted, because the operations inside them are
OPERATION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = \(?\w+\[([\d,]*)\].*?[\s)}]([\w\-]+)\(")


class Operation(NamedTuple):
    """One operation of a compiled program."""

    opcode: str
    shape: tuple[int, ...]  # of its first result
    source: str  # XLA's op_name, which contains an einsum's subscripts


def operations(text: str) -> dict[str, Operation]:
    """Name -> operation, for all operations in the text of a compiled program."""
    by_name = {}
    for line in text.splitlines():
        match = OPERATION.match(line)
        if not match:
            continue
        name, axes, opcode = match.groups()
        shape = tuple(int(axis) for axis in axes.split(",") if axis)
        source = re.search(r'op_name="([^"]*)"', line)
        by_name[name] = Operation(opcode, shape, source[1] if source else "")
    return by_name


def kind(opcode: str, shape: tuple[int, ...], source: str, fields: Mapping[str, Any]) -> str:
    """The kind of an operation, one of KINDS. `fields` are those of the model's config.json."""
    V, D = fields["vocab_size"], fields["d_model"]
    E, H = fields["encoder_attention_heads"], fields["decoder_attention_heads"]
    # oneDNN's product has the shape (rows, panels, columns); one of several projections to heads (B,panels,T,columns).
    panels = len(shape) == 3 and shape[-1] in (onednn.PANEL, D // E, D // H)
    by_heads = len(shape) == 4 and shape[1] in (3 * E, 2 * H, 3 * H)
    if "d,df->" in source or "vd->" in source or (opcode == "custom-call" and (panels or by_heads)):
        columns = math.prod(shape[-2:]) if panels else math.prod(shape[-1:])
        return "output embedding" if columns >= V else "layers' products"
    has_heads = len(shape) >= 3 and H in shape[:-1]
    product_by_head = opcode in ("custom-call", "dot") and H in shape
    if "bhtk,bhks" in source or "bhts,bhsk" in source or has_heads or product_by_head:
        return "attention"
    return "choice of tokens" if any(size >= V for size in shape) or "top_k" in source else "rest"


def traced(run: Callable[[], Any], text: str, fields: Mapping[str, Any]) -> tuple[dict[str, float], float]:
    """Traces a call of `run`, which runs the compiled program with this text: seconds by kind, and in total."""
    import jax

    known = operations(text)
    jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            jax.block_until_ready(run())
            seconds = time.perf_counter() - began
        [path] = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    by_kind = dict.fromkeys(KINDS, 0.0)
    lines = itertools.chain.from_iterable(plane.lines for plane in data.planes)
    for event in itertools.chain.from_iterable(line.events for line in lines):
        operation = known.get(event.name.partition("__")[0])  # an event's name may end in "__" and the call's target
        if operation and operation.opcode not in NESTING:
            by_kind[kind(*operation, fields)] += event.duration_ns / 1e9
    by_kind["in no operation"] = seconds - sum(by_kind.values())
    return by_kind, seconds


def profile(cell: Cell, folder: pathlib.Path) -> dict[str, Any]:
    """Measures a cell: {"encoding": figures, "step": figures, "machine": speeds}, a step being the mean of STEPS.

    Figures are {"seconds": in total, "kinds": seconds by kind, "limit_seconds": the least time}.
    """
    import jax
    import numpy as np
    from bart_inference import load, prepare
    from bart_inference.buckets import source_bucket
    from bart_inference.generation.generate import jit_prefill, resolve, start_decoding
    from bart_inference.generation.search import decode
    from bart_inference.generation.state import State
    from bart_inference.tokenization import pad

    fields = fields_of(cell.model)
    work = work_of(cell, TINY / "examples.jsonl")
    prepared = prepare(load(folder))
    config = prepared.config
    ids, mask = pad(work["batches"][0], work["pad_token_id"])
    empty = source_bucket(ids.shape[1], config.max_position_embeddings) - ids.shape[1]
    ids = np.pad(ids, ((0, 0), (0, empty)))
    mask = np.pad(mask.astype(bool), ((0, 0), (0, empty)))
    rows = resolve(prepared.generation, config, {"min_new_tokens": STEPS, **work["options"]}, None, len(ids))
    prompts = [[row.start_id] for row in rows]

    def state() -> State:
        return jax.block_until_ready(start_decoding(prepared, ids, mask, prompts, rows, [0] * len(ids)))

    encode = jit_prefill.lower(prepared.weights, config, ids, mask).compile()
    encoding, encoding_seconds = traced(lambda: encode(prepared.weights, ids, mask), encode.as_text(), fields)
    step = decode.lower(prepared.weights, config, state(), np.int32(STEPS), False).compile()
    states = [state(), state()]  # `traced` calls the program twice, and each call reuses the memory of its state
    steps, steps_seconds = traced(lambda: step(prepared.weights, states.pop(), np.int32(STEPS)), step.as_text(), fields)
    measures = measures_of(cell, work)
    machine = Machine(bandwidth(measures["step_bytes"]), throughput(measures["products"]))
    B, S = ids.shape
    return {
        "encoding": {
            "seconds": encoding_seconds,
            "kinds": encoding,
            "limit_seconds": prefill_seconds(fields, machine, B, S),
        },
        "step": {
            "seconds": steps_seconds / STEPS,
            "kinds": {name: seconds / STEPS for name, seconds in steps.items()},
            "limit_seconds": step_seconds(fields, machine, B, cell.beams, S, NEW // 2),
        },
        "machine": machine._asdict(),
    }


def report(cells: Mapping[str, Any]) -> str:
    """A Markdown table of milliseconds: by kind, in total, and the machine's limit."""
    lines = ["| | " + " | ".join(KINDS) + " | total | limit |", "|---|" + "---:|" * (len(KINDS) + 2)]
    for name, parts in cells.items():
        for part in ("encoding", "step"):
            figures = parts[part]
            seconds = [figures["kinds"][kind] for kind in KINDS]
            seconds += [figures["seconds"], figures["limit_seconds"]]
            lines.append(f"| {name}, {part} | " + " | ".join(f"{1000 * value:.1f}" for value in seconds) + " |")
    return "\n".join(lines)


def main() -> None:
    cells = {cell.name: cell for cell in CELLS}
    command = Command(__doc__, list(cells), "cell")
    command.parser.add_argument(
        "--cache", type=pathlib.Path, help="folder for model folders (default: a temporary one)"
    )
    arguments = command.parse()
    with cache_of(arguments.cache) as cache:
        for name in command.missing():
            about = circumstances()
            figures = profile(cells[name], folder_of(cache, cells[name].model))
            command.record.add(name, {**figures, "circumstances": about})
    print(report(command.figures()))


if __name__ == "__main__":
    main()
