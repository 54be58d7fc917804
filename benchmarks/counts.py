"""What generation must cost: floating-point operations and bytes, counted from the shapes.

B sources · N beams of each · S source positions · t target positions so far · V vocabulary · D width · H heads ·
K = D/H · F feed-forward · L layers; R = B·N rows. A multiply-add is 2 operations. Softmax, norms, activations, biases
and the search itself are left out: they are small beside the products, so the limit is a true lower bound.

Counted is what no implementation can do without: the source is encoded once, its keys and values are read once a step
by all of its beams; every weight of the decoder is read once a step, by all rows together; a row's own keys and values
are read once a step. An implementation that copies caches, repeats sources per beam or reads weights twice pays more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

FLOAT = 4  # bytes


class Machine(NamedTuple):
    """What a machine can do at most, as measured."""

    bandwidth: float  # bytes a second, read
    throughput: float  # float32 operations a second, in matrix products


def prefill_flops(c: Mapping[str, Any], B: int, S: int) -> int:
    """The encoder, and the decoder's cross-attention keys and values; c: the fields of config.json."""
    D, F = c["d_model"], c["encoder_ffn_dim"]
    projections = 4 * D * D + 2 * D * F  # q, k, v, out; fc1, fc2
    attention = 2 * S * D  # q·kᵀ and weights·v, over all heads
    cross = 2 * D * D
    return 2 * B * S * (c["encoder_layers"] * (projections + attention) + c["decoder_layers"] * cross)


def step_flops(c: Mapping[str, Any], B: int, N: int, S: float, t: int) -> float:
    """One decoder step with t target positions in the cache, its own included; S may be a mean."""
    D, F, V = c["d_model"], c["decoder_ffn_dim"], c["vocab_size"]
    layer = 6 * D * D + 2 * D * F  # q, k, v, out; cross-attention's q, out; fc1, fc2
    attention = 2 * (S + t) * D
    return 2 * B * N * (c["decoder_layers"] * (layer + attention) + D * V)


def step_bytes(c: Mapping[str, Any], B: int, N: int, S: float, t: int) -> float:
    """Weights and caches that the same step reads, in float32."""
    D, F, V = c["d_model"], c["decoder_ffn_dim"], c["vocab_size"]
    weights = c["decoder_layers"] * (6 * D * D + 2 * D * F) + D * V
    caches = c["decoder_layers"] * 2 * D * (B * S + B * N * t)
    return FLOAT * (weights + caches)


def prefill_seconds(c: Mapping[str, Any], machine: Machine, B: int, S: int) -> float:
    return prefill_flops(c, B, S) / machine.throughput


def step_seconds(c: Mapping[str, Any], machine: Machine, B: int, N: int, S: float, t: int) -> float:
    """A step is bound by whichever takes longer: reading its bytes or its arithmetic."""
    return max(
        step_bytes(c, B, N, S, t) / machine.bandwidth,
        step_flops(c, B, N, S, t) / machine.throughput,
    )


def limit_seconds(c: Mapping[str, Any], machine: Machine, B: int, N: int, S: int, T: int) -> float:
    """The least time in which the machine can encode B sources of S positions and take T steps with N beams each."""
    steps = sum(step_seconds(c, machine, B, N, S, t) for t in range(1, T + 1))
    return prefill_seconds(c, machine, B, S) + steps
