"""What goes wrong in production: clients that vanish, overload, device errors, damaged messages, and signals."""

import asyncio
import collections
import random
import socket
import subprocess
import sys
import threading

import grpc
import pytest
from bart_proto.v1 import bart_pb2 as pb
from bart_server.process import Exit
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.echo import FakeEngine
from tests.server.harness import PATIENCE, Gate, Running, summarization_service, wait_until


def code_of(call) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


class ChunkGate:
    """Lets the scheduler decode one chunk at a time."""

    def __init__(self):
        self.permits = threading.Semaphore(0)
        self.open = False

    def __call__(self, verb, requests):
        if verb == "step" and not self.open:
            assert self.permits.acquire(timeout=PATIENCE)

    def allow(self, chunks=1):
        self.permits.release(chunks)

    def release(self):
        self.open = True
        self.permits.release(1000)


def test_a_cancelled_call_frees_its_row_and_leaves_its_neighbor_alone(start, stubs):
    gate = ChunkGate()
    server = start(FakeEngine(on_call=gate))
    summarization = stubs(server).summarization
    gone = summarization.Summarize.future(pb.SummarizeRequest(text="x" * 60), timeout=PATIENCE)
    stays = summarization.Summarize.future(pb.SummarizeRequest(text="y" * 61), timeout=PATIENCE)
    wait_until(lambda: server.metric("bart_cost") == 2 * (64 + 63))  # both are admitted
    gate.allow()
    gone.cancel()
    wait_until(lambda: server.metric("bart_requests") == 1)
    gate.release()
    assert stays.result().text == "y" * 61
    wait_until(server.runtime.scheduler.idle)
    assert server.metric("bart_failed_total", reason="Cancelled") == 1
    wait_until(lambda: server.metric("bart_rows", model="echo", lane="beams1-64") == 0)


def test_a_cancelled_stream_frees_its_row(start, stubs):
    gate = ChunkGate()
    server = start(FakeEngine(on_call=gate))
    stream = stubs(server).summarization.StreamSummarize(pb.StreamSummarizeRequest(text="x" * 60), timeout=PATIENCE)
    gate.allow()
    assert next(stream).delta.text == "xxxx"
    stream.cancel()
    wait_until(lambda: server.metric("bart_failed_total", reason="Cancelled") == 1)
    gate.release()
    wait_until(server.runtime.scheduler.idle)


def test_a_connection_that_dies_frees_its_rows(start):
    gate = ChunkGate()
    server = start(FakeEngine(on_call=gate))
    relay = Relay(server.process.port)
    channel = grpc.insecure_channel(f"127.0.0.1:{relay.port}")
    call = channel.unary_unary("/bart.v1.SummarizationService/Summarize").future(
        pb.SummarizeRequest(text="x" * 60).SerializeToString(), timeout=PATIENCE
    )
    wait_until(lambda: server.metric("bart_cost") > 0)
    relay.reset()
    gate.allow()
    wait_until(server.runtime.scheduler.idle)
    assert server.metric("bart_failed_total", reason="Cancelled") == 1
    assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    gate.release()
    channel.close()


def test_a_half_open_connection_is_found_and_frees_its_rows(start):
    """The connection stays open and nothing more arrives, as when the client's machine loses power."""
    gate = ChunkGate()
    server = start(FakeEngine(on_call=gate), keepalive=1.0)
    relay = Relay(server.process.port)
    with grpc.insecure_channel(f"127.0.0.1:{relay.port}") as channel:
        call = channel.unary_unary("/bart.v1.SummarizationService/Summarize").future(
            pb.SummarizeRequest(text="x" * 60).SerializeToString(), timeout=10 * PATIENCE
        )
        wait_until(lambda: server.metric("bart_cost") > 0)
        relay.frozen = True
        wait_until(lambda: server.metric("bart_requests") == 0)
        call.cancel()
    gate.release()
    wait_until(server.runtime.scheduler.idle)
    assert server.metric("bart_failed_total", reason="Cancelled") == 1


def test_a_client_that_is_killed_frees_its_rows(start):
    gate = ChunkGate()
    server = start(FakeEngine(on_call=gate))
    command = [sys.executable, "-m", "bart_client", "--target", server.address, "summarize"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as client:
        client.stdin.write("x" * 60)
        client.stdin.close()
        wait_until(lambda: server.metric("bart_cost") > 0)
        client.kill()
    gate.allow()
    wait_until(server.runtime.scheduler.idle)
    assert server.metric("bart_failed_total", reason="Cancelled") == 1
    gate.release()


class Relay:
    """A TCP relay to a port of this machine.

    `reset` breaks its connections, as when a client is killed. While `frozen` is true it drops all data.
    """

    def __init__(self, port):
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._sockets = []
        self.frozen = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        near, _ = self._server.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        self._sockets += [near, far]
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source, sink):
        try:
            while data := source.recv(65536):
                if not self.frozen:
                    sink.sendall(data)
        except OSError:
            pass

    def reset(self):
        for end in self._sockets:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # close by RST
            end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._server.close()


def test_a_deadline_is_kept_while_the_device_is_busy(start, stubs):
    gate = Gate("step")
    server = start(FakeEngine(on_call=gate))
    code = code_of(lambda: stubs(server).summarization.Summarize(pb.SummarizeRequest(text="a"), timeout=0.3))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: server.metric("bart_requests") == 0)
    assert not gate.opened.is_set(), "the device was still busy when the call ended"
    gate.open()
    wait_until(server.runtime.scheduler.idle)


def test_at_ten_times_the_load_the_refused_hear_it_at_once_and_the_admitted_are_served(start, stubs):
    gate = Gate("encode")
    server = start(FakeEngine(on_call=gate), max_requests=8)
    summarization = stubs(server).summarization
    done, lock = [], threading.Lock()

    def ended(call):
        with lock:
            done.append((call.code(), call))

    for index in range(400):
        call = summarization.Summarize.future(pb.SummarizeRequest(text=f"text {index}"), timeout=PATIENCE)
        call.add_done_callback(ended)
    wait_until(lambda: len(done) == 392)
    assert {code for code, _ in done} == {grpc.StatusCode.RESOURCE_EXHAUSTED}, "refused while the device is busy"
    gate.open()
    wait_until(lambda: len(done) == 400)
    assert [code for code, _ in done].count(grpc.StatusCode.OK) == 8
    assert all(call.result().text.startswith("text ") for code, call in done if code is grpc.StatusCode.OK)
    wait_until(server.runtime.scheduler.idle)
    assert code_of(lambda: summarization.Summarize(pb.SummarizeRequest(text="after"), timeout=PATIENCE)) is (
        grpc.StatusCode.OK
    )


def test_a_retry_storm_is_told_to_spread(start, stubs):
    gate = Gate("encode")
    server = start(FakeEngine(on_call=gate), max_requests=1)
    summarization = stubs(server).summarization
    first = summarization.Summarize.future(pb.SummarizeRequest(text="a"), timeout=PATIENCE)
    gate.wait()
    pauses = set()
    for _ in range(50):
        with pytest.raises(grpc.RpcError) as refused:
            summarization.Summarize(pb.SummarizeRequest(text="b"), timeout=PATIENCE)
        pauses.add(int(dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"]))
    gate.open()
    assert first.result().text == "a"
    assert min(pauses) >= 1000 and max(pauses) <= 2000 and len(pauses) > 30


def test_a_slow_reader_holds_no_row_and_bounded_memory(start, stubs):
    server = start(chunk=1)
    streams = [
        stubs(server).summarization.StreamSummarize(pb.StreamSummarizeRequest(text="z" * 60), timeout=PATIENCE)
        for _ in range(8)
    ]
    wait_until(lambda: server.metric("bart_tokens_total", model="echo") == 8 * 61)  # none was read
    wait_until(lambda: server.metric("bart_rows", model="echo", lane="beams1-64") == 0)
    assert ["".join(m.delta.text for m in stream) for stream in streams] == ["z" * 60] * 8


def active(metrics):
    """The number of calls in progress, from the metric."""
    [family] = [family for family in metrics.registry.collect() if family.name == "bart_calls_active"]
    return sum(sample.value for sample in family.samples)


def test_a_stream_that_stays_unread_is_given_up():
    """The client's window is smaller than the stream, so that the server cannot write to its end."""
    engine = FakeEngine(sources=(600,), beams=(1,), target_tokens=600)
    window = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]

    async def main():
        async with summarization_service(engine, chunk=1, unread_limit=1.5, channel_options=window) as (stub, runtime):
            stream = stub.StreamSummarize(pb.StreamSummarizeRequest(text="z" * 590), timeout=PATIENCE)
            assert (await stream.read()).delta.text
            async with asyncio.timeout(PATIENCE):
                while not runtime.scheduler.idle():
                    await asyncio.sleep(0.01)
                assert active(runtime.metrics) == 1, "its place is free as soon as its work is done"
                while active(runtime.metrics):
                    await asyncio.sleep(0.01)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                while await stream.read() is not grpc.aio.EOF:
                    pass
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error.value.details() == "the stream was not read for 1.5 s"

    asyncio.run(main())


def test_a_finished_stream_that_is_read_slowly_but_steadily_is_given_up():
    """Every message is read in time, but the last one not within `unread_limit` after the last token."""
    engine = FakeEngine(sources=(600,), beams=(1,), target_tokens=600)
    window = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    sentences = [chr(97 + index) * 580 + "." for index in range(25)]  # one window each, and one message
    request = pb.StreamSummarizeRequest(text=" ".join(sentences), long_input=pb.LONG_INPUT_CHUNK)

    async def main():
        async with summarization_service(engine, chunk=1000, unread_limit=1.0, channel_options=window) as (stub, _):
            stream = stub.StreamSummarize(request, timeout=PATIENCE)
            received, error = 0, None
            try:
                while await stream.read() is not grpc.aio.EOF:
                    received += 1
                    await asyncio.sleep(0.15)
            except grpc.aio.AioRpcError as raised:
                error = raised
        assert error is not None, f"all of the {received} messages were sent"
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error.details() == "the stream was not read to its end within 1 s after the last token"
        assert 2 < received < len(sentences)

    asyncio.run(main())


def test_a_loaded_server_drains_refuses_the_new_and_exits_with_0(start, stubs):
    gate = ChunkGate()
    server = start(FakeEngine(on_call=gate))
    summarization = stubs(server).summarization
    running = summarization.Summarize.future(pb.SummarizeRequest(text="x" * 20), timeout=PATIENCE)
    wait_until(lambda: server.metric("bart_cost") > 0)
    server.signal()
    wait_until(lambda: not server.process.health.serving)
    with pytest.raises(grpc.RpcError) as refused:
        summarization.Summarize(pb.SummarizeRequest(text="late"), timeout=PATIENCE)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    gate.release()
    assert running.result().text == "x" * 20
    assert server.join() is Exit.DRAINED


def test_an_idle_server_ends_at_once(start):
    server = start()
    server.signal()
    assert server.join() is Exit.DRAINED


def test_a_server_that_compiles_ends_without_waiting_for_it(start):
    gate = Gate("compile")
    server = start(FakeEngine(on_call=gate), wait=False)
    gate.wait()
    server.signal()
    assert server.join() is Exit.DRAINED
    gate.open()


def test_a_second_signal_ends_a_server_that_drains(start, stubs):
    gate = Gate("step")
    server = start(FakeEngine(on_call=gate))
    call = stubs(server).summarization.Summarize.future(pb.SummarizeRequest(text="x"), timeout=PATIENCE)
    gate.wait()
    server.signal()
    server.signal()
    assert server.join() is Exit.CUT_OFF
    assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    gate.open()


def test_a_spent_grace_ends_a_server_that_drains(start, stubs):
    gate = Gate("step")
    server = start(FakeEngine(on_call=gate), grace=0.1)
    call = stubs(server).summarization.Summarize.future(pb.SummarizeRequest(text="x"), timeout=PATIENCE)
    gate.wait()
    server.signal()
    assert server.join() is Exit.CUT_OFF
    assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    gate.open()


def test_a_device_error_fails_its_batch_and_the_next_one_works(start, stubs):
    broken = threading.Event()

    def fault(verb, requests):
        if verb == "step" and broken.is_set():
            broken.clear()
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory while trying to allocate")

    server = start(FakeEngine(on_call=fault))
    summarization = stubs(server).summarization
    broken.set()
    assert code_of(lambda: summarization.Summarize(pb.SummarizeRequest(text="a"), timeout=PATIENCE)) is (
        grpc.StatusCode.INTERNAL
    )
    assert summarization.Summarize(pb.SummarizeRequest(text="b"), timeout=PATIENCE).text == "b"
    assert server.metric("bart_device_faults_total") == 1


def test_a_dead_scheduler_ends_the_process_unready(start, stubs):
    class Deadly(FakeEngine):
        def step(self, bucket, state, steps):
            raise SystemExit("not even an Exception")

    server = start(Deadly())
    code = code_of(lambda: stubs(server).summarization.Summarize(pb.SummarizeRequest(text="a"), timeout=PATIENCE))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert server.join() is Exit.BROKEN
    assert not server.process.health.serving


def test_nan_is_an_internal_error(start, stubs):
    class Spoiled(FakeEngine):
        def results(self, bucket, state, rows):
            answers = super().results(bucket, state, rows)
            return [tuple(type(h)(h.tokens, float("nan"), h.stopped) for h in answer) for answer in answers]

    server = start(Spoiled())
    assert code_of(lambda: stubs(server).summarization.Summarize(pb.SummarizeRequest(text="a"), timeout=PATIENCE)) is (
        grpc.StatusCode.INTERNAL
    )


@pytest.mark.parametrize("text", ["\0", "\ufffd", "\u202e", "e\u0301" * 10, "</s><s>", "\U0010ffff"])
def test_strange_text_comes_back_as_it_is(start, stubs, text):
    expected = text.replace("</s>", "").replace("<s>", "")  # Hugging Face's tokenizers read these as special tokens too
    assert stubs(start()).summarization.Summarize(pb.SummarizeRequest(text=text), timeout=PATIENCE).text == expected


@pytest.mark.parametrize(
    "frame",
    [b"\xff" * 20, b"\x12\x02\xc3\x28", b"\x12\xff\xff\xff\xff\x0f", bytes(random.Random(0).randbytes(300))],
    ids=["no-tag", "no-utf8", "no-length", "noise"],
)
def test_bytes_that_are_no_message_are_an_invalid_argument(start, stubs, frame):
    server = start()
    with server.channel() as channel:
        call = channel.unary_unary("/bart.v1.SummarizationService/Summarize")
        assert code_of(lambda: call(frame, timeout=PATIENCE)) is grpc.StatusCode.INVALID_ARGUMENT
    assert stubs(server).summarization.Summarize(pb.SummarizeRequest(text="ok"), timeout=PATIENCE).text == "ok"


@pytest.fixture(scope="module")
def sturdy():
    running = Running(max_text_bytes=1000).ready()
    yield running
    running.close()


GOOD = pb.GenerateRequest(
    text="hello", options=pb.GenerationOptions(num_beams=3, suppress_tokens=pb.TokenIds(ids=[5]), temperature=0.5)
).SerializeToString()


def test_damaged_messages_are_answered_or_refused_and_never_more(sturdy):
    codes = collections.Counter()

    @settings(max_examples=150, deadline=None)
    @example(at=0, cut=0, put=b"")
    @example(at=len(GOOD), cut=0, put=b"\xa2\x06\x03abc")  # an unknown field does no damage
    @given(at=st.integers(0, len(GOOD)), cut=st.integers(0, 8), put=st.binary(max_size=12))
    def check(at, cut, put):
        frame = GOOD[:at] + put + GOOD[at + cut :]
        with sturdy.channel() as channel:
            code = code_of(lambda: channel.unary_unary("/bart.v1.GenerationService/Generate")(frame, timeout=PATIENCE))
        if frame == GOOD:
            assert code is grpc.StatusCode.OK
        else:
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
            codes[code] += 1

    check()
    assert codes[grpc.StatusCode.OK] and codes[grpc.StatusCode.INVALID_ARGUMENT] > 20, codes


def test_unknown_fields_are_ignored(start):
    frame = pb.SummarizeRequest(text="ok").SerializeToString() + b"\xa2\x06\x03abc"  # field 100
    with start().channel() as channel:
        call = channel.unary_unary("/bart.v1.SummarizationService/Summarize")
        assert pb.SummarizeResponse.FromString(call(frame, timeout=PATIENCE)).text == "ok"


def test_noise_on_the_port_harms_nobody(start, stubs):
    server = start()
    noise = random.Random(1)
    for size in (1, 100, 10_000):
        with socket.create_connection(("127.0.0.1", server.process.port)) as raw:
            raw.sendall(noise.randbytes(size))
    assert stubs(server).summarization.Summarize(pb.SummarizeRequest(text="ok"), timeout=PATIENCE).text == "ok"


def test_a_checkpoint_that_cannot_be_read_ends_the_process_unready(start):
    def corrupt(settings, path):
        raise ValueError("model.safetensors: header too large")

    server = start(load=corrupt, wait=False)
    assert server.join() is Exit.NOT_LOADED


@pytest.mark.parametrize("bursts", [45, pytest.param(20_000, marks=pytest.mark.slow)])
def test_nothing_leaks_in_a_soak(start, stubs, bursts):
    """After many bursts of calls, a third cancelled and some refused, no place, row, thread or descriptor is in use."""
    import psutil

    server = start(max_requests=16)
    summarization = stubs(server).summarization
    process, chance, codes = psutil.Process(), random.Random(2), collections.Counter()

    def burst(count):
        calls = []
        for _ in range(count):
            text = "x" * chance.randrange(1, 60)
            calls.append(summarization.Summarize.future(pb.SummarizeRequest(text=text), timeout=PATIENCE))
            if chance.random() < 0.3:
                calls[-1].cancel()
        codes.update(call.code() for call in calls)
        wait_until(server.runtime.scheduler.idle)
        server.engines[0].calls.clear()  # the fake engine's list of calls would grow and is no leak of the server

    for _ in range(5):
        burst(20)
    memory, files, threads = process.memory_info().rss, process.num_fds(), threading.active_count()
    for _ in range(bursts):
        burst(20)
    grpc_bytes = 50 * 20 * bursts  # grpc.aio itself does not free about 100 bytes of each cancelled call
    assert process.memory_info().rss - memory < (8 << 20) + grpc_bytes
    assert process.num_fds() <= files + 2 and threading.active_count() <= threads + 2
    assert server.metric("bart_cost") == server.metric("bart_requests") == server.metric("bart_waiting") == 0
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED}, codes
    assert codes[grpc.StatusCode.OK] > codes.total() / 2, codes
