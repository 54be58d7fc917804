"""The token counts and times of an answer, in its message and in the log."""

import pytest
from bart_proto.v1 import bart_pb2 as pb
from bart_server.services.conversion import duration, usage_facts


@pytest.mark.parametrize(
    ("seconds", "nanoseconds"), [(0.0, 0), (1.5, 1_500_000_000), (2e-9, 2), (1.6e-9, 2), (-0.5, 0)]
)
def test_a_duration_is_rounded_to_nanoseconds_and_never_negative(seconds, nanoseconds):
    assert duration(seconds).ToNanoseconds() == nanoseconds


def test_the_log_has_the_figures_of_the_answer_in_seconds():
    usage = pb.Usage(input_tokens=3, output_tokens=4, queue_time=duration(1.5), compute_time=duration(0.25))
    expected = {"input_tokens": 3, "output_tokens": 4, "queue_seconds": 1.5, "compute_seconds": 0.25}
    assert usage_facts(usage) == expected
