"""The floating-point operations that we count equal PyTorch's count, and the least time follows from the counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BartConfig, BartForConditionalGeneration

from benchmarks.counts import Machine, limit_seconds, prefill_flops, prefill_seconds, step_bytes, step_flops
from tests.twins import TINY

SHAPE = TINY | {"encoder_ffn_dim": 40, "decoder_ffn_dim": 36}


@pytest.mark.parametrize(("B", "S", "T"), [(1, 7, 1), (3, 11, 5)])
def test_operations_are_those_that_pytorch_counts_in_greedy_search(B, S, T):
    model = BartForConditionalGeneration(BartConfig(**SHAPE, forced_eos_token_id=None, attn_implementation="eager"))
    ids = torch.randint(4, SHAPE["vocab_size"], (B, S))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval().generate(ids, min_new_tokens=T, max_new_tokens=T, do_sample=False, num_beams=1)
    expected = prefill_flops(SHAPE, B, S) + sum(step_flops(SHAPE, B, 1, S, t) for t in range(1, T + 1))
    assert counter.get_total_flops() == expected


def test_a_step_reads_each_weight_of_the_decoder_once_and_its_caches():
    model = BartForConditionalGeneration(BartConfig(**SHAPE))
    read_once = [
        tensor.numel()
        for name, tensor in model.model.decoder.layers.named_parameters()
        if tensor.ndim == 2 and not ("encoder_attn" in name and ("k_proj" in name or "v_proj" in name))
    ]
    head = model.lm_head.weight.numel()
    D, L = SHAPE["d_model"], SHAPE["decoder_layers"]
    sources, beams = 2 * 7 * 2 * D * L, 2 * 4 * 5 * 2 * D * L  # keys and values of B·S and of B·N·t positions
    assert step_bytes(SHAPE, B=2, N=4, S=7, t=5) == 4 * (sum(read_once) + head + sources + beams)


def test_a_step_is_bound_by_bytes_or_by_operations():
    slow_memory, slow_arithmetic = Machine(1.0, 1e30), Machine(1e30, 1.0)
    steps = range(1, 4)
    assert limit_seconds(SHAPE, slow_memory, 2, 4, 7, 3) == pytest.approx(
        sum(step_bytes(SHAPE, 2, 4, 7, t) for t in steps) + prefill_seconds(SHAPE, slow_memory, 2, 7)
    )
    assert limit_seconds(SHAPE, slow_arithmetic, 2, 4, 7, 3) == pytest.approx(
        sum(step_flops(SHAPE, 2, 4, 7, t) for t in steps) + prefill_flops(SHAPE, 2, 7)
    )


def test_growth_is_measured_against_a_straight_line_of_the_counts():
    from benchmarks import growth

    points = [{"batch": b, "seconds": 1.0 + 0.5 * b, "limit_seconds": 0.5 + 0.25 * b} for b in (1, 2, 4)]
    assert growth.slope("batch", points, "seconds") == pytest.approx(0.5)
    assert "| sources in a batch | 500.00 | 250.00 | 2.00 |" in growth.report({"batch": {"points": points}})
    for axis, values in growth.AXES.items():
        limits = [growth.limit(growth.CENTER | {axis: value}, Machine(1e10, 1e11)) for value in values]
        assert limits == sorted(limits), axis
