"""The training loop of pre-training and fine-tuning.

AdamW with warm-up, a constant plateau and a linear decay to zero over the last `decay` steps (Hägele et al.,
https://arxiv.org/abs/2405.18392). A cosine schedule depends on the number of steps from the beginning; here the plateau
of an unfinished run can be made longer or shorter.
"""

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bart_inference.devices import ROWS, data_mesh
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

import bart_oneliner
from bart_oneliner import Config, Params
from bart_training.data import Batch
from bart_training.options import Options


def schedule(options: Options) -> optax.Schedule:
    """The learning rate as a function of the number of updates; one update takes `accumulate` batches."""
    steps = options.steps / options.accumulate
    warmup = options.warmup / options.accumulate
    decay = options.decay / options.accumulate

    def rate(update: jax.Array) -> jax.Array:
        up = jnp.minimum(1.0, (update + 1) / max(warmup, 1))
        down = jnp.clip((steps - update) / decay, 0.0, 1.0) if decay else 1.0
        return options.learning_rate * up * down

    return rate


def optimizer(options: Options) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm; weight decay for matrices only, not for norms and biases."""

    def is_matrix(path: jax.tree_util.KeyPath, _: Any) -> bool:
        name = jax.tree_util.keystr(path)
        return "norm" not in name and "bias" not in name

    def decays(params: Params) -> Any:
        return jax.tree_util.tree_map_with_path(is_matrix, params)

    adamw = optax.adamw(schedule(options), b1=0.9, b2=0.98, weight_decay=options.weight_decay, mask=decays)
    clipped = optax.chain(optax.clip_by_global_norm(options.clip), adamw)
    if options.accumulate == 1:
        return clipped
    return optax.MultiSteps(clipped, options.accumulate).gradient_transformation()


@functools.cache  # so that a second run with the same options in one process compiles nothing
def make_step(config: Config, options: Options) -> Callable[..., Any]:
    """A jitted function (params, state, batch, step) -> (params, state, loss). state: the optimizer's."""
    tx = optimizer(options)

    def to_bfloat16(array: jax.Array) -> jax.Array:
        return array.astype(jnp.bfloat16)

    def step(params: Params, state: Any, batch: Batch, step: jax.Array) -> tuple[Params, Any, jax.Array]:
        # rbg, because on a CPU the default generator (threefry) takes longer than the dropout that uses its numbers.
        key = jax.random.fold_in(jax.random.key(options.seed, impl="rbg"), step)

        def objective(params: Params) -> jax.Array:
            if options.bfloat16:
                params = jax.tree.map(to_bfloat16, params)
            return bart_oneliner.loss(params, config, *batch, options.label_smoothing, key)

        loss, grads = jax.value_and_grad(objective)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return jax.jit(step, donate_argnums=(0, 1))


def save_state(path: Path, params: Params, state: Any, step: int) -> None:
    """Writes one file, which replaces the old one at once: if the process is killed, the file is the old or the new."""
    leaves = [np.asarray(a) for a in jax.tree.leaves((params, state))]
    partial = path.with_suffix(".partial")
    with partial.open("wb") as f:
        np.savez(f, *leaves, step=step)
    os.replace(partial, path)


def load_state(path: Path, params: Params, state: Any) -> tuple[Params, Any, int]:
    """Parameters, optimizer state and step of a file of save_state. params, state: trees of the same structure."""
    with np.load(path) as saved:
        leaves = [saved[f"arr_{i}"] for i in range(len(saved.files) - 1)]
        params, state = jax.tree.unflatten(jax.tree.structure((params, state)), leaves)
        return params, state, int(saved["step"])


def load_params(path: Path, config: Config) -> Params:
    """The weights of a file that save_state wrote, which are its first arrays; those of the optimizer follow."""
    shapes, treedef = jax.tree.flatten(bart_oneliner.param_shapes(config))
    with np.load(path) as saved:
        return jax.tree.unflatten(treedef, [saved[f"arr_{i}"] for i in range(len(shapes))])


def train(
    params: Params, config: Config, batches: Callable[[int], Batch], options: Options, run: Path,
    on_save: Callable[[Params, int], None] = lambda params, step: None,
) -> Params:  # fmt: skip
    """Trains until options.steps, from run/state.npz if it exists, and returns the weights.

    Every log_every steps it appends a line to run/log.jsonl: a JSON object with step, mean loss in nats, learning rate
    and seconds since the start. on_save(params, step) is called when the state was saved.
    """
    run.mkdir(parents=True, exist_ok=True)
    mesh = data_mesh()
    everywhere, sharded = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, ROWS)
    state, start = optimizer(options).init(params), 0
    if (run / "state.npz").exists():
        params, state, start = load_state(run / "state.npz", params, state)
    params, state = jax.device_put((params, state), everywhere)
    step = make_step(config, options)
    begun, recent = time.monotonic(), []
    bar = tqdm(range(start, options.steps), initial=start, total=options.steps, smoothing=0.05, mininterval=5)
    with (run / "log.jsonl").open("a") as log:
        for i in bar:
            batch = jax.device_put(batches(i), sharded)
            params, state, loss = step(params, state, batch, i)
            recent.append(loss)
            if (i + 1) % options.log_every == 0:
                entry = {
                    "step": i + 1,
                    "loss": float(np.mean([float(loss) for loss in recent])),
                    "rate": float(schedule(options)(i / options.accumulate)),
                    "seconds": time.monotonic() - begun,
                }
                bar.set_postfix(loss=f"{entry['loss']:.3f}")
                print(json.dumps(entry), file=log, flush=True)
                recent = []
            if (i + 1) % options.save_every == 0 or i + 1 == options.steps:
                save_state(run / "state.npz", params, state, i + 1)
                on_save(params, i + 1)
    return params
