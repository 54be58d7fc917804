"""Calls are refused before their message is read; reading is bounded in places, in time and in the size of fields."""

import threading
import time

import grpc
import psutil
import pytest
from bart_proto.v1 import bart_pb2 as pb
from bart_server.scheduling.errors import InvalidArgument
from bart_server.services.limits import Limits
from bart_server.services.sizes import check_sizes
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.echo import FakeEngine
from tests.server.harness import PATIENCE, Gate, Running, wait_until
from tests.server.raw_http2 import RawConnection, envelope

SUMMARIZE = "/bart.v1.SummarizationService/Summarize"
GENERATE = "/bart.v1.GenerationService/Generate"
LIMITS = Limits(text_bytes=100, windows=2, batch_items=3, labels=2, label_bytes=40, options_bytes=50)


# ── the size of every field, before it is parsed ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("message", "field", "description"),
    [
        (pb.SummarizeRequest(text="x" * 101), "text", "101 bytes, at most 100"),
        (pb.SummarizeRequest(text="ж" * 51), "text", "102 bytes, at most 100"),
        (pb.BatchSummarizeRequest(texts=["x"] * 4), "texts", "4 texts, between 1 and 3"),
        (pb.ClassifyZeroShotRequest(text="x", labels=["x"] * 3), "labels", "3 labels, between 1 and 2"),
        (pb.ClassifyZeroShotRequest(text="x", labels=["x", "x" * 41]), "labels[1]", "41 bytes, at most 40"),
        (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5] * 60)), "token_ids", "bytes, at most 50"),
        (pb.ScoreRequest(text="x", labels=pb.Labels(ids=[5] * 60)), "labels", "bytes, at most 50"),
        (pb.GenerateRequest(text="x", model="x" * 1001), "model", "1001 bytes, at most 1000"),
        (
            pb.GenerateRequest(text="x", options={"bad_words_ids": pb.TokenSequences(sequences=[pb.TokenIds()] * 40)}),
            "options",
            "bytes, at most 50",
        ),
    ],
)
def test_a_field_that_is_too_large_is_named_with_its_size_and_limit(message, field, description):
    with pytest.raises(InvalidArgument) as refusal:
        check_sizes(type(message), message.SerializeToString(), LIMITS)
    assert refusal.value.field == field and description in refusal.value.description


def test_every_field_at_its_limit_passes():
    for message in (
        pb.SummarizeRequest(text="x" * 100, options=pb.GenerationOptions(num_beams=4, temperature=0.5)),
        pb.BatchSummarizeRequest(texts=["x" * 1000] * 3),
        pb.ClassifyZeroShotRequest(text="x", labels=["x" * 40] * 2),
        pb.ScoreRequest(token_ids=pb.TokenIds(ids=[5] * 48), target_text="x" * 100),
    ):
        check_sizes(type(message), message.SerializeToString(), LIMITS)


def test_parts_of_a_field_are_added_up_as_a_parser_would():
    part = pb.GenerateRequest(options={"suppress_tokens": pb.TokenIds(ids=[5] * 20)}).SerializeToString()
    check_sizes(pb.GenerateRequest, part, LIMITS)
    with pytest.raises(InvalidArgument, match=r"options: .* at most 50"):
        check_sizes(pb.GenerateRequest, 3 * part, LIMITS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08\x01" * 100_000, "request: more than 1005 fields"),
        (b"\xa2\x06\x3c" + b"x" * 60, "unknown fields: 60 bytes, at most 50"),
        (b"\xa3\x06" + b"\x0a\x00" * 1000 + b"\xa4\x06", "request: holds a group"),
    ],
    ids=["many", "unknown", "group"],
)
def test_what_a_parser_would_keep_without_understanding_it_is_bounded_too(data, message):
    with pytest.raises(InvalidArgument, match=message):
        check_sizes(pb.SummarizeRequest, data, LIMITS)


# ── on the wire ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server():
    running = Running(message_timeout=0.5, max_readers=2).ready()
    yield running
    running.close()


@pytest.fixture
def connect():
    connections = []

    def begin(server, **options):
        connections.append(RawConnection(server.process.port, **options))
        return connections[-1]

    yield begin
    for connection in connections:
        connection.close()


def answered(server):
    """Whether the next ordinary call is served."""
    with server.channel() as channel:
        call = channel.unary_unary(SUMMARIZE, response_deserializer=pb.SummarizeResponse.FromString)
        return call(pb.SummarizeRequest(text="ok").SerializeToString(), timeout=PATIENCE).text == "ok"


@pytest.mark.parametrize("sent", [b"", envelope(b"", 1000) + b"x" * 500], ids=["nothing", "a part"])
def test_a_message_that_does_not_arrive_ends_the_call_and_frees_what_it_held(server, connect, sent):
    connection = connect(server)
    connection.call(1, SUMMARIZE)
    connection.send(1, sent)
    trailers = connection.trailers(1)
    assert b"grpc-status\x014" in trailers and b"the message did not arrive within 0.5 s" in trailers
    wait_until(lambda: server.metric("bart_requests") == server.metric("bart_calls_unread") == 0)
    assert answered(server)


def test_a_call_that_ends_without_a_message_is_an_invalid_argument(server, connect):
    connection = connect(server)
    connection.call(1, SUMMARIZE)
    connection.send(1, b"", end=True)
    assert b"the call brought no message" in connection.trailers(1)


def test_slow_messages_do_not_keep_others_from_being_read(start, connect):
    server = start(message_timeout=PATIENCE, max_readers=2)
    slow = connect(server)
    for stream in (1, 3, 5):
        slow.call(stream, SUMMARIZE)
        slow.send(stream, envelope(b"", 1000))
    other = connect(server)
    other.call(1, SUMMARIZE)
    wait_until(lambda: server.metric("bart_calls_unread") >= 3)
    assert answered(server)
    assert b"the message came too slowly" in slow.trailers(1)


def test_a_call_is_refused_before_its_message_is_sent(start, stubs, connect):
    gate = Gate("encode")
    server = start(FakeEngine(on_call=gate), max_requests=1)
    first = stubs(server).summarization.Summarize.future(pb.SummarizeRequest(text="one"), timeout=PATIENCE)
    gate.wait()
    connection = connect(server)
    connection.call(1, SUMMARIZE, ((b"x-request-id", b"mine-1"),))
    trailers = connection.trailers(1)
    assert b"grpc-status\x018" in trailers and b"grpc-retry-pushback-ms" in trailers and b"mine-1" in trailers
    assert b"1 requests are in flight, this call brings 1" in trailers
    with server.channel() as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    gate.open()
    assert first.result().text == "one"


def test_a_call_without_a_token_is_refused_before_its_message_is_sent(start, connect, tmp_path):
    (tmp_path / "tokens").write_text("secret")
    server = start(token_file=str(tmp_path / "tokens"))
    connection = connect(server)
    connection.call(1, SUMMARIZE, ((b"authorization", b"Bearer wrong"),))
    assert b"a valid bearer token is needed" in connection.trailers(1)
    assert server.metric("bart_calls_total", code="UNAUTHENTICATED") == 1


def test_refusals_are_counted_and_not_logged_one_by_one(start, stubs, caplog):
    gate = Gate("encode")
    server = start(FakeEngine(on_call=gate), max_requests=1)
    summarize = stubs(server).summarization.Summarize
    first = summarize.future(pb.SummarizeRequest(text="one"), timeout=PATIENCE)
    gate.wait()
    for _ in range(5):
        with pytest.raises(grpc.RpcError):
            summarize(pb.SummarizeRequest(text="two"), timeout=PATIENCE)
    gate.open()
    assert first.result().text == "one"
    wait_until(lambda: server.metric("bart_calls_total", code="OK") == 1)
    assert server.metric("bart_calls_total", code="RESOURCE_EXHAUSTED") == 5


def unfinished(port, count, headers=()):
    """Opens `count` connections, each with a call that has sent no more than a part of a message of 4 MiB.

    Each sends 3.9 MB, or as much as the server's flow control allows.
    """
    connections = [RawConnection(port) for _ in range(count)]
    for connection in connections:
        connection.call(1, SUMMARIZE, headers)

    def send(connections):
        for connection in connections:
            connection.send(1, envelope(b"", 4 << 20) + bytes(3_900_000))

    threads = [threading.Thread(target=send, args=(connections[begin::10],)) for begin in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return connections


@pytest.mark.parametrize("token", [b"secret", b"wrong"])
def test_a_hundred_unfinished_messages_of_four_megabytes_cost_at_most_sixty_megabytes(tmp_path, token):
    from tests.server.test_operations import Process

    (tmp_path / "tokens").write_text("secret")
    server = Process("--token-file", str(tmp_path / "tokens"), "--message-timeout", "60", "--host", "127.0.0.1")
    port = int(server.until("listening")["address"].rpartition(":")[2])
    server.until("ready")
    memory = psutil.Process(server.process.pid).memory_info
    before = memory().rss
    connections = unfinished(port, 100, ((b"authorization", b"Bearer " + token),))
    grown = memory().rss - before
    for connection in connections:
        connection.close()
    server.process.terminate()
    server.end()
    assert grown < 60 << 20, f"{grown >> 20} MB"


def loop_seconds(server):
    """Seconds of processor time that the server's event loop has used."""
    return time.clock_gettime(time.pthread_getcpuclockid(server._thread.ident))


@pytest.mark.parametrize(
    "options",
    [
        {"bad_words_ids": pb.TokenSequences(sequences=[pb.TokenIds(ids=[5])] * 600_000)},
        {"suppress_tokens": pb.TokenIds(ids=[5] * 3_000_000)},
        {"sequence_bias": pb.SequenceBiases(biases=[pb.SequenceBias(ids=[5], bias=1.0)] * 200_000)},
    ],
    ids=["bad words", "token ids", "biases"],
)
def test_megabytes_of_options_cost_the_event_loop_next_to_nothing(options, request):
    server = request.getfixturevalue("large")
    data = pb.GenerateRequest(text="a", options=options).SerializeToString()
    with server.channel(**{"grpc.max_send_message_length": -1}) as channel:
        call = channel.unary_unary(GENERATE)
        before = loop_seconds(server)
        for _ in range(5):
            with pytest.raises(grpc.RpcError) as refusal:
                call(data, timeout=PATIENCE)
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert refusal.value.details().startswith("options: ")
        spent = (loop_seconds(server) - before) / 5
    assert spent < 0.03, f"{spent * 1000:.0f} ms a call"


@pytest.fixture(scope="module")
def large():
    running = Running().ready()
    yield running
    running.close()


# ── what callers see and metrics count ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [b"\x07bell", b"\xc3\xa9t\xc3\xa9", b"\xff\xfe"])
def test_a_request_id_that_cannot_be_sent_back_is_replaced(large, connect, name):
    connection = connect(large)
    connection.call(1, SUMMARIZE, ((b"x-request-id", name),))
    connection.send(1, envelope(pb.SummarizeRequest(text="ok").SerializeToString()), end=True)
    trailers = connection.trailers(1)
    assert b"grpc-status\x010" in trailers and b"x-request-id\x20" in trailers, "32 hexadecimal digits"


@pytest.mark.parametrize("length", [300, 900])
def test_an_error_repeats_at_most_two_hundred_characters_of_what_was_sent(large, length):
    with large.channel() as channel:
        call = channel.unary_unary(SUMMARIZE)
        with pytest.raises(grpc.RpcError) as refusal:
            call(pb.SummarizeRequest(text="a", model="m" * length).SerializeToString(), timeout=PATIENCE)
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    assert refusal.value.details().count("m" * 199) == 1 and "m" * 201 not in refusal.value.details()


def test_every_call_is_counted_as_what_it_was(start):
    gate = Gate("encode")
    server = start(FakeEngine(on_call=gate), max_message_bytes=1000)
    with server.channel() as channel:
        call, ok = channel.unary_unary(SUMMARIZE), pb.SummarizeRequest(text="a").SerializeToString()
        for frame, timeout, code in ((ok, 0.3, "DEADLINE_EXCEEDED"), (b"x" * 2000, PATIENCE, "RESOURCE_EXHAUSTED")):
            with pytest.raises(grpc.RpcError) as error:
                call(frame, timeout=timeout)
            assert error.value.code().name == code
            wait_until(lambda code=code: server.metric("bart_calls_total", code=code) == 1)
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/bart.v1.SummarizationService/Nothing")(ok, timeout=PATIENCE)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert server.metric("bart_calls_total", code="UNIMPLEMENTED", method="unknown") == 1
        gone = call.future(ok, timeout=PATIENCE)
        wait_until(lambda: server.metric("bart_cost") > 0)
        gone.cancel()
        wait_until(lambda: server.metric("bart_calls_total", code="CANCELLED") == 1)
    gate.open()


# ── streams that nobody reads ─────────────────────────────────────────────────────────────────────────────────────────


def test_unread_streams_hold_no_place_and_are_bounded_for_each_client(start, connect, monkeypatch):
    monkeypatch.setattr("bart_server.transport.grpc_server.MAX_UNREAD_STREAMS", 20)
    server = start(chunk=1, max_requests=16)
    connection = connect(server, window=0)
    request = envelope(pb.StreamSummarizeRequest(text="z" * 50).SerializeToString())
    for index in range(20):
        connection.call(2 * index + 1, "/bart.v1.SummarizationService/StreamSummarize")
        connection.send(2 * index + 1, request, end=True)
        wait_until(lambda index=index: server.metric("bart_calls_active") == index + 1)
        wait_until(server.runtime.scheduler.idle)
    connection.call(41, "/bart.v1.SummarizationService/StreamSummarize")
    connection.send(41, request, end=True)
    assert b"20 streams of this client wait to be read" in connection.trailers(41)
    assert answered(server)


def test_unread_streams_stay_counted_when_another_stream_of_the_client_is_read(
    start, stubs, connect, monkeypatch, tmp_path
):
    """The client is recognized by its token, so that one of its connections can read and another one not."""
    monkeypatch.setattr("bart_server.transport.grpc_server.MAX_UNREAD_STREAMS", 3)
    (tmp_path / "tokens").write_text("secret")
    server = start(chunk=1, token_file=str(tmp_path / "tokens"))
    token = (("authorization", "Bearer secret"),)
    connection = connect(server, window=0)
    request = pb.StreamSummarizeRequest(text="z" * 50)

    def leave_unread(stream, active):
        connection.call(
            stream, "/bart.v1.SummarizationService/StreamSummarize", ((b"authorization", b"Bearer secret"),)
        )
        connection.send(stream, envelope(request.SerializeToString()), end=True)
        wait_until(lambda: server.metric("bart_calls_active") == active)
        wait_until(server.runtime.scheduler.idle)

    leave_unread(1, active=1)
    leave_unread(3, active=2)
    read = stubs(server).summarization.StreamSummarize(request, metadata=token, timeout=PATIENCE)
    assert list(read)[-1].summary.text == "z" * 50
    wait_until(lambda: server.metric("bart_calls_active") == 2)
    leave_unread(5, active=3)
    connection.call(7, "/bart.v1.SummarizationService/StreamSummarize", ((b"authorization", b"Bearer secret"),))
    assert b"3 streams of this client wait to be read" in connection.trailers(7)
