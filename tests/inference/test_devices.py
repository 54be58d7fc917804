"""Several devices share the rows of a batch, give the results of one device, and exchange no data."""

from support.process import run_on_devices

PROGRAM = """
import jax, numpy as np
from bart_inference import generate, prepare
from bart_inference.generation.search import decode
from bart_inference.devices import jit_on_rows, mesh_of
from bart_inference.generation.generate import jit_prefill, start_decoding
from bart_inference.generation.options import resolve
from tests.inference.cases import checkpoint, draw_batch

assert jax.device_count() == 8
spread = prepare(checkpoint("uneven")[0].model)
alone = spread._replace(weights=jax.device_put(spread.weights, jax.devices()[0]))
mesh = mesh_of(spread.weights)
assert mesh.size == 8 and mesh_of(alone.weights) is None

ids, mask = draw_batch(np.random.default_rng(0), 99, 1, 11, 16)
for options in ({"num_beams": 1}, {"num_beams": 3}, {"do_sample": True, "seed": 3, "num_return_sequences": 2}):
    one, eight = (generate(model, ids, mask, max_length=24, **options) for model in (alone, spread))
    assert np.array_equal(one.sequences, eight.sequences), options
    assert np.abs(one.sequences_scores - eight.sequences_scores).max() < 1e-5, options
    assert len({tuple(row) for row in one.sequences.tolist()}) > 5, options

for options in ({"num_beams": 1}, {"num_beams": 3}, {"num_beams": 1, "do_sample": True}):
    rows = resolve({}, spread.config, options, None, 11)
    state = start_decoding(spread, ids, mask, [[2]] * 11, rows, [0] * 11)
    assert all(len(leaf.addressable_shards) == 8 for leaf in jax.tree.leaves(state))
    assert state.tokens.shape[0] == 16 and state.tokens.addressable_shards[0].data.shape[0] == 2
    program = jit_on_rows(mesh, decode, (0, 3), (1, 4), (2,))
    compiled = program.lower(spread.weights, spread.config, state, 5, rows[0].do_sample).compile().as_text()
    padded = np.zeros((16, 16), np.int32)
    program = jit_on_rows(mesh, jit_prefill)
    compiled += program.lower(spread.weights, spread.config, padded, padded == 0).compile().as_text()
    for name in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert f" {name}" not in compiled, (options, name)
    summed = jax.jit(lambda tokens: tokens.sum()).lower(state.tokens).compile().as_text()
    assert " all-reduce" in summed, "a sum over all devices does not show as an all-reduce"
print("held")
"""


def test_eight_devices_give_the_tokens_of_one_and_exchange_nothing() -> None:
    ended = run_on_devices(PROGRAM, 8)
    assert ended.stdout == "held\n", ended.stderr
