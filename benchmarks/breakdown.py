"""Where a cell's time goes: XLA's own trace of one encoding and of some decoding steps, by kind of work.

    JAX_PLATFORMS=cpu python -m benchmarks.breakdown base-b1-greedy-s512 base-b8-beam4-s512 --record FOLDER

An operation of the compiled program is put under what its metadata and its shape say: products with the weights of the
layers, the output embedding's, attention (products, softmax and all else over keys), the choice of tokens (all else
over the vocabulary), the rest (norms, activations, caches), and what is in no operation: waiting and dispatch. Its time
is from its start to its end on the thread that runs it, waiting for other threads included. Tracing itself costs a few
percent. Beside it: what the machine would need, from the shapes and from what it shows in the same run
(benchmarks/counts.py). The record is results.json.
"""

from __future__ import annotations

import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from bart_inference.model import onednn

from benchmarks.cells import CELLS, NEW, Cell, measures_of, work_of
from benchmarks.checkpoints import TINY, cache_of, fields_of, folder_of
from benchmarks.counts import Machine, prefill_seconds, step_seconds
from benchmarks.machine import bandwidth, circumstances, throughput
from support.records import Command

STEPS = 12
KINDS = ("layers' products", "output embedding", "attention", "choice of tokens", "rest", "in no operation")
NESTING = ("while", "conditional", "call")  # hold other operations, whose time is their own


def operations(text: str) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Of a compiled program's text: every operation's (opcode, shape of its first result, op_name) by its name."""
    found = {}
    for line in text.splitlines():
        if head := re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = \(?\w+\[([\d,]*)\].*?[\s)}]([\w\-]+)\(", line):
            name, shape, opcode = head.groups()
            source = re.search(r'op_name="([^"]*)"', line)
            found[name] = (opcode, tuple(map(int, filter(None, shape.split(",")))), source[1] if source else "")
    return found


def kind(opcode: str, shape: tuple[int, ...], source: str, fields: Mapping[str, Any]) -> str:
    V, H = fields["vocab_size"], fields["decoder_attention_heads"]
    # oneDNN's results are (rows, panels, columns) and, to several projections' heads, (B, panels, T, columns).
    E = fields["encoder_attention_heads"]
    panels = len(shape) == 3 and shape[-1] in (onednn.PANEL, fields["d_model"] // E, fields["d_model"] // H)
    by_heads = len(shape) == 4 and shape[1] in (3 * E, 2 * H, 3 * H)
    columns = shape[-2] * shape[-1] if panels else shape[-1] if shape else 0
    if "d,df->" in source or "vd->" in source or (opcode == "custom-call" and (panels or by_heads)):
        return "output embedding" if columns >= V else "layers' products"
    if (
        "bhtk,bhks" in source
        or "bhts,bhsk" in source
        or (len(shape) >= 3 and H in shape[:-1])
        or (opcode in ("custom-call", "dot") and H in shape)
    ):
        return "attention"
    return "choice of tokens" if any(size >= V for size in shape) or "top_k" in source else "rest"


def traced(run: Callable[[], Any], text: str, fields: Mapping[str, Any]) -> tuple[dict[str, float], float]:
    """Seconds of one call of `run` by kind of operation, and in all."""
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
    found = dict.fromkeys(KINDS, 0.0)
    events = (event for plane in data.planes for line in plane.lines for event in line.events)
    for event in events:
        operation = known.get(event.name.partition("__")[0])  # a custom call's target stands behind its name
        if operation and operation[0] not in NESTING:
            found[kind(*operation, fields)] += event.duration_ns / 1e9
    found["in no operation"] = seconds - sum(found.values())
    return found, seconds


def profile(cell: Cell, folder: pathlib.Path) -> dict[str, Any]:
    """{"encoding", "step": {"seconds", "kinds", "limit_seconds"}, "machine"}; a step is the mean of STEPS."""
    import jax
    import numpy as np
    from bart_inference import load, prepare
    from bart_inference.buckets import source_bucket
    from bart_inference.generation.generate import jit_prefill, resolve, start_decoding
    from bart_inference.generation.search import decode
    from bart_inference.tokenization import pad

    fields = fields_of(cell.model)
    work = work_of(cell, TINY / "examples.jsonl")
    prepared = prepare(load(folder))
    config = prepared.config
    ids, mask = pad(work["batches"][0], work["pad_token_id"])
    empty = source_bucket(ids.shape[1], config.max_position_embeddings) - ids.shape[1]
    ids, mask = (np.pad(x, ((0, 0), (0, empty))) for x in (ids, mask.astype(bool)))
    rows = resolve(prepared.generation, config, {"min_new_tokens": STEPS, **work["options"]}, None, len(ids))
    prompts = [[row.start_id] for row in rows]
    state = lambda: jax.block_until_ready(start_decoding(prepared, ids, mask, prompts, rows, [0] * len(ids)))

    encode = jit_prefill.lower(prepared.weights, config, ids, mask).compile()
    encoding, encoding_seconds = traced(lambda: encode(prepared.weights, ids, mask), encode.as_text(), fields)
    step = decode.lower(prepared.weights, config, state(), np.int32(STEPS), False).compile()
    states = [state(), state()]
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
    """Markdown: milliseconds by kind, in all, and what the machine would need."""
    lines = ["| | " + " | ".join(KINDS) + " | in all | the limit |", "|---|" + "---:|" * (len(KINDS) + 2)]
    for name, found in cells.items():
        for part in ("encoding", "step"):
            one = found[part]
            kinds = " | ".join(f"{1000 * one['kinds'][what]:.1f}" for what in KINDS)
            lines.append(
                f"| {name}, {part} | {kinds} | {1000 * one['seconds']:.1f} | {1000 * one['limit_seconds']:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    cells = {cell.name: cell for cell in CELLS}
    command = Command(__doc__, list(cells), "cell")
    command.parser.add_argument("--cache", type=pathlib.Path, help="folder for the model folders; else a temporary one")
    given = command.parse()
    with cache_of(given.cache) as cache:
        for name in command.missing():
            about = circumstances()
            figures = profile(cells[name], folder_of(cache, cells[name].model))
            command.record.add(name, {**figures, "circumstances": about})
    print(report(command.figures()))


if __name__ == "__main__":
    main()
