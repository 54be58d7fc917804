"""Counts what generation needs at least from the shapes: floating-point operations and bytes, and from these the time.

B sources · N beams of each · S source positions · t target positions so far · V vocabulary · D width · F feed-forward.
A multiply-add is 2 operations. Softmax, norms, activations, biases and the search itself are not counted: they cost
little beside the products, and the result stays a lower bound without them.

Only what every implementation needs is counted. A source is encoded once. In each step, its keys and values are read
once for all of its beams, every weight of the decoder is read once for all beams together, and each beam's
self-attention keys and values are read once. An implementation that copies caches, repeats sources for each beam or
reads weights twice needs more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

FLOAT = 4  # bytes


class Machine(NamedTuple):
    """The highest speeds that were measured on a machine."""

    bandwidth: float  # bytes read from memory in a second
    throughput: float  # float32 operations of matrix products in a second


def prefill_flops(c: Mapping[str, Any], B: int, S: int) -> int:
    """Operations of the encoder and of the cross-attention's keys and values. c: the fields of config.json."""
    D, F = c["d_model"], c["encoder_ffn_dim"]
    projections = 4 * D * D + 2 * D * F  # q, k, v, out; fc1, fc2
    attention = 2 * S * D  # q·kᵀ and weights·v, over all heads
    cross = 2 * D * D
    return 2 * B * S * (c["encoder_layers"] * (projections + attention) + c["decoder_layers"] * cross)


def step_flops(c: Mapping[str, Any], B: int, N: int, S: float, t: int) -> float:
    """Operations of a decoder step with t target positions in the cache, the new one included.

    S is the mean of the sources' lengths if they differ.
    """
    D, F, V = c["d_model"], c["decoder_ffn_dim"], c["vocab_size"]
    layer = 6 * D * D + 2 * D * F  # q, k, v, out; cross-attention's q, out; fc1, fc2
    attention = 2 * (S + t) * D
    return 2 * B * N * (c["decoder_layers"] * (layer + attention) + D * V)


def step_bytes(c: Mapping[str, Any], B: int, N: int, S: float, t: int) -> float:
    """Bytes of float32 weights and caches that the step of `step_flops` reads."""
    D, F, V = c["d_model"], c["decoder_ffn_dim"], c["vocab_size"]
    weights = c["decoder_layers"] * (6 * D * D + 2 * D * F) + D * V
    caches = c["decoder_layers"] * 2 * D * (B * S + B * N * t)
    return FLOAT * (weights + caches)


def prefill_seconds(c: Mapping[str, Any], machine: Machine, B: int, S: int) -> float:
    return prefill_flops(c, B, S) / machine.throughput


def step_seconds(c: Mapping[str, Any], machine: Machine, B: int, N: int, S: float, t: int) -> float:
    """The least seconds of a step: the time for reading its bytes or for its arithmetic, whichever is longer."""
    return max(
        step_bytes(c, B, N, S, t) / machine.bandwidth,
        step_flops(c, B, N, S, t) / machine.throughput,
    )


def limit_seconds(c: Mapping[str, Any], machine: Machine, B: int, N: int, S: int, T: int) -> float:
    """The least time in which the machine can encode B sources of S positions and take T steps with N beams each."""
    steps = sum(step_seconds(c, machine, B, N, S, t) for t in range(1, T + 1))
    return prefill_seconds(c, machine, B, S) + steps
