"""What gRPC is told: channel arguments, pauses before another try, refusals of every kind of call."""

import math
import random

import grpc
import pytest
from bart_server.scheduling.errors import InvalidArgument, Overloaded, Unavailable
from bart_server.settings import Settings
from bart_server.transport import credentials
from bart_server.transport.grpc_server import options, remaining
from bart_server.transport.interceptor import refusing_handler
from bart_server.transport.refusals import refusal, trailers


def test_grpcs_channel_arguments_follow_from_the_settings():
    settings = Settings(max_message_bytes=1000, max_requests=100, keepalive=30.0, max_connection_age=0.0)
    assert dict(options(settings)) == {
        "grpc.so_reuseport": 0,
        "grpc.max_receive_message_length": 1000,
        "grpc.max_concurrent_streams": 1024,
        "grpc.http2.lookahead_bytes": 65_536,
        "grpc.http2.bdp_probe": 0,
        "grpc.server.max_pending_requests": 100_000,
        "grpc.server.max_pending_requests_hard_limit": 100_000,
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.http2.ping_timeout_ms": 10_000,
        "grpc.http2.min_recv_ping_interval_without_data_ms": 10_000,
    }
    large = dict(options(Settings(max_requests=1000, max_connection_age=2.5)))
    assert (large["grpc.max_concurrent_streams"], large["grpc.max_connection_age_ms"]) == (4000, 2500)


@pytest.mark.parametrize("error", [Overloaded("full", 2.5), Unavailable("loading", 2.5)])
def test_the_pause_before_another_try_is_drawn_between_one_and_two_times_the_hint(error):
    random.seed(0)
    pauses = [int(dict(trailers(error, b"", "id"))["grpc-retry-pushback-ms"]) for _ in range(5000)]
    assert 2500 <= min(pauses) <= 2502 and 4998 <= max(pauses) <= 5000
    assert sum(pauses) / 5000 == pytest.approx(3750, rel=0.01)


def test_a_caller_that_must_not_try_again_is_told_no_pause():
    error = InvalidArgument("text", "blank")
    assert list(dict(trailers(error, refusal(error).details, "id"))) == ["x-request-id", "grpc-status-details-bin"]


@pytest.mark.parametrize(
    "make",
    [
        grpc.unary_unary_rpc_method_handler,
        grpc.unary_stream_rpc_method_handler,
        grpc.stream_unary_rpc_method_handler,
        grpc.stream_stream_rpc_method_handler,
    ],
)
def test_a_refusal_has_the_kind_of_the_call(make):
    handler = make(lambda request, context: None)
    refusal = refusing_handler(handler)
    kind = (handler.request_streaming, handler.response_streaming)
    assert (refusal.request_streaming, refusal.response_streaming) == kind
    functions = [refusal.unary_unary, refusal.unary_stream, refusal.stream_unary, refusal.stream_stream]
    assert [function is not None for function in functions] == [kind == other for other in KINDS]


KINDS = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize(("told", "expected"), [(None, None), (math.inf, None), (2.5, 2.5)])
def test_an_infinite_deadline_is_none(told, expected):
    class Context:
        def time_remaining(self):
            return told

    assert remaining(Context()) == expected


def test_comments_and_blank_lines_are_no_tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# accepted\n  first \n\n   \n#second\nthird # kept\n")
    assert credentials.read_tokens(Settings(token_file=str(path))) == ["first", "third # kept"]
    assert credentials.read_tokens(Settings()) is None
