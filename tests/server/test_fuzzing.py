"""Random requests to a running server get documented statuses only, and the next ordinary call is served."""

import grpc
import psutil
import pytest
from bart_proto.v1 import bart_pb2 as pb
from bart_server.services.methods import METHODS
from google.protobuf.descriptor import FieldDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.harness import PATIENCE, Running, wait_until
from tests.server.raw_http2 import PREFACE, RawConnection, envelope

STATUSES = {  # OK and those in the table of server/README.md, without UNAUTHENTICATED and INTERNAL
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "UNAVAILABLE",
    "DEADLINE_EXCEEDED", "CANCELLED",
}  # fmt: skip
SUMMARIZE = "/bart.v1.SummarizationService/Summarize"
TEXTS = st.one_of(
    st.text(max_size=80), st.just("x" * 3000), st.just(" "), st.just("One sentence is here. " * 20), st.just("echo")
)
NUMBERS = st.one_of(st.integers(0, 5), st.just(64), st.just(2**31 - 1), st.just(2**32 - 1))
SCALARS = {
    FieldDescriptor.CPPTYPE_STRING: TEXTS,
    FieldDescriptor.CPPTYPE_UINT32: NUMBERS,
    FieldDescriptor.CPPTYPE_INT32: st.one_of(st.integers(-101, 300), st.just(2**31 - 1), st.just(-(2**31))),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_ENUM: st.one_of(st.integers(0, 4), st.just(-1)),
}
# The echo engine makes as many samples as it is asked for, and has no limit of its own.
ECHO = {"num_return_sequences": st.integers(0, 3), "num_beams": st.sampled_from([0, 1, 1, 2, 3, 3])}


@st.composite
def messages(draw, descriptor, depth=0):
    """A message of this type with some of its fields set."""
    message = getattr(pb, descriptor.name)()
    for field in descriptor.fields:
        if depth < 3 and draw(st.integers(0, 2)):
            continue
        count = draw(st.sampled_from([0, 1, 2, 5, 300])) if field.is_repeated else 1
        if field.message_type:
            for _ in range(min(count, 5)):
                value = draw(messages(field.message_type, depth + 1))
                target = getattr(message, field.name)
                (target.add() if field.is_repeated else target).MergeFrom(value)
        elif field.is_repeated:
            value = draw(SCALARS[field.cpp_type])
            getattr(message, field.name).extend([value] * count)
        else:
            setattr(message, field.name, draw(ECHO.get(field.name, SCALARS[field.cpp_type])))
    return message


@st.composite
def calls(draw):
    """One call as (method, bytes, metadata, timeout, manner). manner: what the client does with the call."""
    method = METHODS[draw(st.sampled_from(sorted(METHODS)))]
    data = draw(messages(method.request.DESCRIPTOR)).SerializeToString()
    if not draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=8)) + data[at + draw(st.integers(0, 8)) :]
    printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200)
    names = st.sampled_from(["x-request-id", "traceparent", "authorization", "grpc-previous-rpc-attempts", "x"])
    metadata = draw(st.lists(st.tuples(names, printable), max_size=3))
    timeout = draw(st.sampled_from([PATIENCE, PATIENCE, PATIENCE, 0.05, 0.001]))
    manner = draw(st.sampled_from(["whole", "whole", "whole", "cancelled", "unread", "no message", "a part", "frames"]))
    return method, data, metadata, timeout, manner


@pytest.fixture(scope="module")
def server():
    running = Running(max_text_bytes=2000, max_requests=32, message_timeout=0.2).ready()
    yield running
    running.close()


@pytest.fixture(scope="module")
def channel(server):
    with server.channel() as opened:
        yield opened


def carry_out(server, channel, method, data, metadata, timeout, manner, noise):
    """Makes one call. Returns the name of its status, or None if the client did not wait for it."""
    if manner in ("no message", "a part", "frames"):
        connection = RawConnection(server.process.port)
        connection.call(1, method.name)
        if manner == "a part":
            connection.send(1, envelope(data, len(data) + 9))
        elif manner == "no message":
            connection.send(1, b"", end=True)
        else:
            connection.socket.sendall(noise + PREFACE)
        connection.receive(0.02)
        connection.close()
        return None
    call = (channel.unary_stream if method.streams else channel.unary_unary)(method.name)
    try:
        if method.streams:
            stream = call(data, metadata=metadata, timeout=timeout)
            if manner == "cancelled":
                stream.cancel()
            elif manner == "whole":
                list(stream)
            else:
                next(stream, None)
                stream.cancel()
            return "OK"
        future = call.future(data, metadata=metadata, timeout=timeout)
        if manner != "whole":
            future.cancel()
            return None
        future.result()
    except grpc.FutureCancelledError:
        return None
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def hold(server, channel, call, noise):
    """Makes one call, and checks its status, the server's health, and that an ordinary call is answered."""
    status = carry_out(server, channel, *call, noise)
    assert status in STATUSES | {None}, status
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    ordinary = channel.unary_unary(SUMMARIZE, response_deserializer=pb.SummarizeResponse.FromString)
    text = "An ordinary request."
    assert ordinary(pb.SummarizeRequest(text=text).SerializeToString(), timeout=PATIENCE).text == text
    server.engines[0].calls.clear()


COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@settings(max_examples=300, **COMMON)
@given(call=calls(), noise=st.binary(max_size=64))
def test_whatever_is_sent_the_status_is_known_and_the_next_call_is_served(server, channel, call, noise):
    hold(server, channel, call, noise)


@pytest.mark.slow
def test_twenty_thousand_requests_leave_nothing_behind(server, channel):
    @settings(max_examples=2000, **COMMON)
    @given(call=calls(), noise=st.binary(max_size=64))
    def warm_up(call, noise):
        hold(server, channel, call, noise)

    @settings(max_examples=20_000, **COMMON)
    @given(call=calls(), noise=st.binary(max_size=64))
    def many(call, noise):
        hold(server, channel, call, noise)

    warm_up()
    before = psutil.Process().memory_info().rss
    many()
    wait_until(lambda: server.metric("bart_calls_active") == 0 and server.runtime.scheduler.idle())
    assert server.metric("bart_calls_unread") == server.metric("bart_cost") == 0
    assert psutil.Process().memory_info().rss - before < 64 << 20
    assert server.metric("bart_calls_total", code="INTERNAL") == 0


def test_no_call_was_an_internal_error(server):
    """Must be the last test of this file. The server has counted all calls above, the cancelled and unread ones too."""
    wait_until(server.runtime.scheduler.idle)
    assert server.metric("bart_calls_total", code="INTERNAL") == 0
    assert server.metric("bart_calls_total", code="UNKNOWN") == 0
