"""How the server uses gRPC: its options, pauses before a retry, refusals, and the reading of messages and streams."""

import asyncio
import math
import random
import time

import grpc
import pytest
from bart_proto.v1 import bart_pb2 as pb
from bart_server.scheduling.errors import InvalidArgument, Overloaded, Unavailable
from bart_server.scheduling.jobs import Reservation
from bart_server.settings import Settings
from bart_server.transport import credentials
from bart_server.transport.grpc_server import options, remaining
from bart_server.transport.reading import Readers
from bart_server.transport.refusals import BUILT, refusal, request_id_of, trailers, unread

from support.echo import FakeEngine
from tests.server.harness import PATIENCE, summarization_service


def test_grpcs_channel_arguments_follow_from_the_settings():
    settings = Settings(max_message_bytes=1000, max_requests=100, keepalive=30.0, max_connection_age=0.0)
    assert dict(options(settings)) == {
        "grpc.so_reuseport": 0,
        "grpc.max_receive_message_length": 1000 + (1 << 20),
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
    large = dict(options(Settings(max_requests=1000, keepalive=20.0, max_connection_age=2.5)))
    assert large["grpc.keepalive_timeout_ms"] == large["grpc.http2.ping_timeout_ms"] == 6667
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


@pytest.mark.parametrize(("time_remaining", "expected"), [(None, None), (math.inf, None), (2.5, 2.5)])
def test_an_infinite_deadline_is_none(time_remaining, expected):
    class Context:
        def time_remaining(self):
            return time_remaining

    assert remaining(Context()) == expected


def test_comments_and_blank_lines_are_no_tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# accepted\n  first \n\n   \n#second\nthird # kept\n")
    assert credentials.read_tokens(Settings(token_file=str(path))) == ["first", "third # kept"]
    assert credentials.read_tokens(Settings()) is None


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Sender:
    """A call whose message arrives when the test sets it. begun: whether the server has begun to read it."""

    def __init__(self):
        self.begun = False
        self.message = asyncio.get_running_loop().create_future()

    async def read(self):
        self.begun = True
        return await self.message


def test_only_so_many_messages_are_read_at_once_and_only_so_many_of_one_client():
    async def main():
        readers = Readers(places=3, per_client=2, timeout=PATIENCE)
        senders = {name: Sender() for name in ("a1", "a2", "a3", "b1", "b2")}
        calls = {}
        for name, sender in senders.items():
            calls[name] = asyncio.create_task(readers.read(sender, Reservation(name[0], 0.0, 0, lambda *_: None)))

        async def begun():
            for _ in range(30):
                await asyncio.sleep(0)
            return [name for name, sender in senders.items() if sender.begun]

        assert await begun() == ["a1", "a2", "b1"], "two of a, three in all"
        assert readers.unread == 5
        senders["a1"].message.set_result(b"first")
        assert await begun() == ["a1", "a2", "a3", "b1"], "each has one left, and a3 came first"
        assert readers.unread == 4
        senders["a2"].message.set_result(b"second")
        assert await begun() == list(senders)
        for name in ("a3", "b1", "b2"):
            senders[name].message.set_result(name.encode())
        assert await asyncio.gather(*calls.values()) == [b"first", b"second", b"a3", b"b1", b"b2"]
        assert readers.unread == 0 and not readers._active

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sent", "is_valid"),
    [("abc 1", True), ("~", True), ("", False), ("é", False), ("a\nb", False), (b"abc", False), (None, False)],
)
def test_a_request_id_that_is_no_header_is_replaced(sent, is_valid):
    request_id = request_id_of({} if sent is None else {"x-request-id": sent})
    assert request_id == sent if is_valid else len(request_id) == 32 and request_id.isalnum()


def test_refusals_of_unread_calls_are_built_once_and_only_so_many_are_kept():
    BUILT.clear()
    first = unread(Overloaded("full", 1.0))
    assert unread(Overloaded("full", 1.0)) is first and first.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert unread(Overloaded("full", 2.0)) is not first, "the pause is a part of the details"
    for index in range(254):
        unread(Overloaded(f"{index} requests", 1.0))
    assert len(BUILT) == 256 and unread(Overloaded("full", 1.0)) is first
    unread(Overloaded("one more", 1.0))
    assert len(BUILT) == 1


def test_streams_that_were_read_do_not_count_as_unread(start, stubs, monkeypatch):
    monkeypatch.setattr("bart_server.transport.grpc_server.MAX_UNREAD_STREAMS", 2)
    summarization = stubs(start(chunk=1)).summarization
    for _ in range(4):
        stream = summarization.StreamSummarize(pb.StreamSummarizeRequest(text="hello"), timeout=PATIENCE)
        assert list(stream)[-1].summary.text == "hello"


def test_a_stream_may_take_longer_than_its_reader_may_pause():
    engine = FakeEngine(on_call=lambda verb, requests: time.sleep(0.3 if verb == "step" else 0))

    async def main():
        async with summarization_service(engine, chunk=1, unread_limit=1.0) as (stub, _):
            stream = stub.StreamSummarize(pb.StreamSummarizeRequest(text="hello"), timeout=PATIENCE)
            messages = [message async for message in stream]
        assert messages[-1].summary.text == "hello"

    asyncio.run(main())


def test_a_clients_messages_that_are_still_read_stay_counted_when_another_one_has_come():
    async def main():
        readers = Readers(places=10, per_client=2, timeout=PATIENCE)
        senders, calls = [], []

        async def call(client):
            senders.append(Sender())
            calls.append(asyncio.create_task(readers.read(senders[-1], Reservation(client, 0.0, 0, lambda *_: None))))
            for _ in range(30):
                await asyncio.sleep(0)
            return [sender.begun for sender in senders]

        for _ in range(3):
            await call("a")
        assert await call("a") == [True, True, False, False]
        senders[0].message.set_result(b"first")
        await call("b")
        assert await call("b") == [True, True, True, False, True, True], "two of a are read, so its fourth waits"
        for sender in senders[1:]:
            sender.message.set_result(b"more")
        await asyncio.gather(*calls)

    asyncio.run(main())
