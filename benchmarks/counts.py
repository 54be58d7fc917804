"""What generation costs at least: floating-point operations and bytes, counted from the shapes.

B sources · N beams of each · S source positions · t target positions so far · V vocabulary · D width · H heads ·
K = D/H · F feed-forward · L layers; R = B·N rows. A multiply-add is 2 operations. Softmax, norms, activations, biases
and the search itself are not counted: they are small beside the products, and so the limit is a true lower bound.

Only what every implementation needs is counted. The source is encoded once, and its keys and values are read once a
step for all of its beams. Every weight of the decoder is read once a step for all rows together. Each row's
self-attention keys and values are read once a step. Copying caches, repeating sources per beam or reading weights twice
costs more than the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

FLOAT = 4  # bytes


class Machine(NamedTuple):
    """The highest speeds that were measured on a machine."""

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
    """One decoder step with t target positions in the cache, the new one included; S may be a mean."""
    D, F, V = c["d_model"], c["decoder_ffn_dim"], c["vocab_size"]
    layer = 6 * D * D + 2 * D * F  # q, k, v, out; cross-attention's q, out; fc1, fc2
    attention = 2 * (S + t) * D
    return 2 * B * N * (c["decoder_layers"] * (layer + attention) + D * V)


def step_bytes(c: Mapping[str, Any], B: int, N: int, S: float, t: int) -> float:
    """The bytes of float32 weights and caches that this step reads."""
    D, F, V = c["d_model"], c["decoder_ffn_dim"], c["vocab_size"]
    weights = c["decoder_layers"] * (6 * D * D + 2 * D * F) + D * V
    caches = c["decoder_layers"] * 2 * D * (B * S + B * N * t)
    return FLOAT * (weights + caches)


def prefill_seconds(c: Mapping[str, Any], machine: Machine, B: int, S: int) -> float:
    return prefill_flops(c, B, S) / machine.throughput


def step_seconds(c: Mapping[str, Any], machine: Machine, B: int, N: int, S: float, t: int) -> float:
    """A step takes at least as long as the reading of its bytes, and at least as long as its arithmetic."""
    return max(
        step_bytes(c, B, N, S, t) / machine.bandwidth,
        step_flops(c, B, N, S, t) / machine.throughput,
    )


def limit_seconds(c: Mapping[str, Any], machine: Machine, B: int, N: int, S: int, T: int) -> float:
    """The least time in which the machine can encode B sources of S positions and take T steps with N beams each."""
    steps = sum(step_seconds(c, machine, B, N, S, t) for t in range(1, T + 1))
    return prefill_seconds(c, machine, B, S) + steps
