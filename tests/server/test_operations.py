"""What operators rely on: health, reflection, metrics, logs, traces and signals."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import grpc
import pytest
from bart_proto.v1 import bart_pb2 as pb
from bart_proto.v1 import bart_pb2_grpc
from bart_server.services.methods import SERVICES
from bart_server.telemetry import logs
from bart_server.telemetry.tracing import OpenTelemetry
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from support.echo import FakeEngine
from tests.server.harness import PATIENCE, Gate, wait_until
from tests.server.raw_http2 import RawConnection, envelope

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Watcher:
    """Collects the statuses that the health service sends to a Watch call."""

    def __init__(self, channel, service):
        self.seen = []
        self.call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for response in self.call:
                self.seen.append(response.status)
        except grpc.RpcError:
            pass


def test_health_watchers_see_every_transition_even_after_one_leaves(start):
    compiling, stepping = Gate("compile"), Gate("step")
    server = start(
        FakeEngine(on_call=lambda verb, requests: (compiling(verb, requests), stepping(verb, requests))), wait=False
    )
    with server.channel() as channel:
        watchers = [Watcher(channel, service) for service in ("", *SERVICES)]
        leaving = Watcher(channel, "")
        wait_until(lambda: all(watcher.seen == [NOT_SERVING] for watcher in [*watchers, leaving]))
        leaving.call.cancel()
        compiling.open()
        wait_until(lambda: all(watcher.seen == [NOT_SERVING, SERVING] for watcher in watchers))
        call = bart_pb2_grpc.SummarizationServiceStub(channel).Summarize.future(pb.SummarizeRequest(text="x"))
        stepping.wait()
        server.signal()
        wait_until(lambda: all(watcher.seen == [NOT_SERVING, SERVING, NOT_SERVING] for watcher in watchers))
        stepping.open()
        assert call.result().text == "x"


def test_health_knows_which_services_there_are(start):
    with start().channel() as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for service in ("", *SERVICES):
            request = health_pb2.HealthCheckRequest(service=service)
            assert check(request, timeout=PATIENCE).status == SERVING
        with pytest.raises(grpc.RpcError) as error:
            check(health_pb2.HealthCheckRequest(service="bart.v1.Nothing"), timeout=PATIENCE)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_describes_every_service(start):
    with start().channel() as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {*SERVICES, "grpc.health.v1.Health"} <= set(database.get_services())
        assert "SummarizationService" in str(database.FindFileContainingSymbol("bart.v1.SummarizationService"))


def test_metrics_are_served_over_http(start, stubs):
    server = start(metrics="127.0.0.1:0")
    stubs(server).summarization.Summarize(pb.SummarizeRequest(text="abc"), timeout=PATIENCE)
    wait_until(server.runtime.scheduler.idle)
    page = (
        urllib.request.urlopen(f"http://127.0.0.1:{server.process.metrics_port}/metrics", timeout=PATIENCE)
        .read()
        .decode()
    )
    for line in (
        "bart_ready 1.0",
        'bart_calls_total{code="OK",method="/bart.v1.SummarizationService/Summarize"} 1.0',
        'bart_tokens_total{model="echo"} 4.0',
        'bart_encoder_batch_count{model="echo"} 1.0',
        'bart_stage_seconds_count{model="echo",stage="queue"} 1.0',
        "bart_requests 0.0",
        "bart_compiles_after_ready_total 0.0",
        "bart_requests_waited_for_compilation_total 0.0",
    ):
        assert line in page


def test_a_compilation_after_ready_is_counted(start):
    metrics = start().process.metrics
    metrics.compiled()
    assert metrics.registry.get_sample_value("bart_compiles_after_ready_total") == 1


def test_requests_that_a_compilation_holds_up_are_counted_and_one_in_the_background_is_not(start, stubs):
    here = []

    def compile_in_a_step(verb, requests):
        if verb == "step" and here:
            here.pop().compiled()

    server = start(FakeEngine(on_call=compile_in_a_step))
    # Reports a compilation on this thread, where no request waits for a call of the engine.
    server.process.metrics.compiled()
    assert server.metric("bart_requests_waited_for_compilation_total") == 0
    here.append(server.process.metrics)
    stubs(server).summarization.Summarize(pb.SummarizeRequest(text="a"), timeout=PATIENCE)
    assert server.metric("bart_requests_waited_for_compilation_total") == 1


def test_logs_are_json_with_facts_and_without_texts(start, stubs, caplog):
    caplog.set_level(logging.DEBUG)
    server = start()
    secret = "wombat telegraph"
    labels = ["secretlabel"]
    service = stubs(server)
    service.summarization.Summarize(pb.SummarizeRequest(text=secret), timeout=PATIENCE)
    with pytest.raises(grpc.RpcError):
        service.summarization.Summarize(pb.SummarizeRequest(text=secret * 9), timeout=PATIENCE)
    service.classification.ClassifyZeroShot(pb.ClassifyZeroShotRequest(text=secret, labels=labels), timeout=PATIENCE)
    wait_until(lambda: sum(record.message == "call" for record in caplog.records) == 3)
    lines = [json.loads(logs.JsonFormatter().format(record)) for record in caplog.records]
    first = next(line for line in lines if line["message"] == "call")
    assert first["code"] == "OK" and first["model"] == "echo" and first["input_tokens"] == 18
    assert {"request_id", "method", "peer", "seconds", "queue_seconds", "compute_seconds"} <= set(first)
    assert not any(word in json.dumps(lines) for word in ("wombat", "telegraph", "secretlabel"))


def test_a_call_is_a_trace_with_the_callers_parent_and_the_stages_as_children(start, stubs):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    server = start(tracer=OpenTelemetry(provider))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    stubs(server).summarization.Summarize(
        pb.SummarizeRequest(text="abc"), metadata=(("traceparent", parent),), timeout=PATIENCE
    )
    wait_until(lambda: len(exporter.get_finished_spans()) == 3)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    call = spans["bart.v1.SummarizationService/Summarize"]
    assert f"{call.context.trace_id:032x}" in parent and f"{call.parent.span_id:016x}" in parent
    assert call.attributes["bart.output_tokens"] == 4
    assert spans["queue"].parent.span_id == spans["device"].parent.span_id == call.context.span_id
    assert spans["queue"].end_time == spans["device"].start_time


# ── as a process ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Process:
    """An echo server in a process of its own. lines: the log lines that were read, as dictionaries."""

    def __init__(self, *flags, **environment):
        flags = ("--port", "0", "--metrics", "off", *flags)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.echo_server", *flags],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines = []

    def until(self, message):
        """Reads the log until a line has this message, and returns that line."""
        for line in self.process.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["message"] == message:
                return self.lines[-1]
        raise AssertionError(f"ended before {message!r}: {self.lines}")

    def until_level(self, level):
        """Reads the log until a line has this level, and returns that line."""
        for line in self.process.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["level"] == level:
                return self.lines[-1]
        raise AssertionError(f"ended before a line of the level {level!r}: {self.lines}")

    def end(self):
        try:
            self.process.communicate(timeout=PATIENCE)
            return self.process.returncode
        finally:
            self.process.kill()


def test_a_process_prints_its_settings_serves_drains_on_sigterm_and_exits_with_0():
    server = Process("--chunk", "5")
    assert server.until("settings")["settings"]["chunk"] == 5
    address = server.until("listening")["address"].replace("localhost", "127.0.0.1")
    assert server.until("ready")["models"] == {"echo": "fake:echo"}
    with grpc.insecure_channel(address) as channel:
        stub = bart_pb2_grpc.SummarizationServiceStub(channel)
        assert stub.Summarize(pb.SummarizeRequest(text="hi"), timeout=PATIENCE).text == "hi"
    server.process.send_signal(signal.SIGTERM)
    assert server.until("ended")["exit"] == "drained"
    assert server.end() == 0


def test_a_process_that_compiles_ends_on_sigterm():
    server = Process(ECHO_HOLDS="compile")
    server.until("listening")
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0


def test_a_second_sigterm_ends_a_process_that_cannot_drain():
    server = Process(ECHO_HOLDS="step")
    address = server.until("listening")["address"].replace("localhost", "127.0.0.1")
    server.until("ready")
    with grpc.insecure_channel(address) as channel:
        call = bart_pb2_grpc.SummarizationServiceStub(channel).Summarize.future(pb.SummarizeRequest(text="hi"))
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(timeout=0.2)
        server.process.send_signal(signal.SIGTERM)
        server.until("draining")
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 1


@pytest.mark.parametrize("flags", [["--port", "-1"], ["--host", "0.0.0.0"], ["--tls-cert", "nowhere"]])
def test_a_wrong_setting_ends_the_process_before_anything_is_loaded(flags):
    ended = subprocess.run(
        [sys.executable, "-m", "tests.server.echo_server", *flags],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 2 and ended.stderr.startswith("bart_server: --")


def test_a_taken_port_is_an_error_and_not_shared():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Process("--host", "127.0.0.1", "--port", str(taken.getsockname()[1]))
        assert server.end() == 2


def test_localhost_is_both_addresses_or_none():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Process("--host", "localhost", "--port", str(taken.getsockname()[1]))
        assert server.end() == 2


def test_a_budget_that_holds_no_request_ends_the_process_and_names_the_setting():
    server = Process("--max-cost", "100")
    with pytest.raises(AssertionError, match=r"--max-cost is 100: bucket \S+ needs a budget of"):
        server.until("ready")
    assert server.end() == 2


def test_traces_without_their_packages_are_a_setting_that_cannot_be(monkeypatch):
    from bart_server.process import exporting_tracer
    from bart_server.settings import SettingsError

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"--trace needs .*otel"):
        exporting_tracer()


def test_a_log_that_nobody_reads_holds_up_nobody():
    server = Process("--host", "127.0.0.1")
    address = server.until("listening")["address"]
    server.until("ready")
    with grpc.insecure_channel(address) as channel:  # from here on nobody reads standard error, a pipe of 64 KB
        stub = bart_pb2_grpc.SummarizationServiceStub(channel)
        for _ in range(600):
            assert stub.Summarize(pb.SummarizeRequest(text="hi"), timeout=PATIENCE).text == "hi"
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status == 1
    server.process.send_signal(signal.SIGTERM)
    try:
        assert server.process.wait(timeout=PATIENCE) == 0
    finally:
        server.process.kill()


def test_lines_that_do_not_fit_are_counted_and_the_loss_is_logged():
    readable, writable = os.pipe()
    os.set_blocking(writable, True)
    writer = logs.LineWriter(writable, limit=10)
    long = json.dumps({"message": "x" * 10_000})
    for _ in range(200):
        writer.put(long)
    assert writer.lost > 100
    with open(readable) as lines:
        read = 0
        while (line := json.loads(lines.readline()))["message"] != "log lines were lost":
            read += 1
    assert read <= 30 and line["lost"] > 100


def test_whatever_is_written_to_standard_error_is_a_line_of_json():
    server = Process("--host", "127.0.0.1", ECHO_SAYS="F1124 13:00 something in C++\n", GRPC_VERBOSITY="DEBUG")
    assert server.until("F1124 13:00 something in C++")["logger"] == "stderr"
    server.until("ready")
    server.process.send_signal(signal.SIGTERM)
    server.until("ended")
    assert server.end() == 0


def test_a_header_that_cannot_be_decoded_is_not_logged():
    server = Process("--host", "127.0.0.1", "--log-level", "debug")
    address = server.until("listening")["address"]
    server.until("ready")
    connection = RawConnection(int(address.rpartition(":")[2]))
    connection.call(1, "/bart.v1.SummarizationService/Summarize", ((b"authorization", b"Bearer wombat\xff\xfe"),))
    connection.send(1, envelope(pb.SummarizeRequest(text="ok").SerializeToString()), end=True)
    connection.trailers(1)
    connection.close()
    server.process.send_signal(signal.SIGTERM)
    server.until("ended")
    assert not any("wombat" in json.dumps(line) for line in server.lines)
    assert server.end() == 0


def test_a_device_call_that_never_returns_ends_the_process_unready():
    server = Process("--host", "127.0.0.1", "--device-timeout", "0.5", ECHO_HOLDS="step")
    address = server.until("listening")["address"]
    server.until("ready")
    with grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as error:
            bart_pb2_grpc.SummarizationServiceStub(channel).Summarize(pb.SummarizeRequest(text="hi"), timeout=PATIENCE)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.until("ended")["exit"] == "broken"
    assert server.end() == 4


# ── draining, probes, and files that change ───────────────────────────────────────────────────────────────────────────


def test_while_draining_begins_calls_are_still_served_and_health_is_not_serving(start, stubs):
    server = start(drain_pause=PATIENCE)
    summarize = stubs(server).summarization.Summarize
    server.signal()
    wait_until(lambda: not server.process.health.serving)
    assert summarize(pb.SummarizeRequest(text="hi"), timeout=PATIENCE).text == "hi"
    server.signal()  # ends the pause
    assert server.join().name in ("DRAINED", "CUT_OFF")


def test_callers_behind_health_checks_notice_nothing_when_one_of_two_servers_ends(start):
    first, second = start(drain_pause=0.5), start()
    config = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
    options = [("grpc.service_config", json.dumps(config)), ("grpc.enable_retries", 0)]
    target = f"ipv4:{first.address},{second.address}"
    codes, over = [], threading.Event()

    def ask():
        with grpc.insecure_channel(target, options=options) as channel:
            stub = bart_pb2_grpc.SummarizationServiceStub(channel)
            while not over.is_set():
                try:
                    stub.Summarize(pb.SummarizeRequest(text="hi"), timeout=PATIENCE, wait_for_ready=True)
                    codes.append("OK")
                except grpc.RpcError as error:
                    codes.append(error.code().name)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: first.metric("bart_calls_total", code="OK") > 100)
    first.signal()
    first.join()
    served = second.metric("bart_calls_total", code="OK")
    wait_until(lambda: second.metric("bart_calls_total", code="OK") > served + 100)
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert set(codes) == {"OK"}, {code: codes.count(code) for code in set(codes)}


def test_a_process_that_loads_is_alive_and_not_ready(start):
    gate = Gate("compile")
    server = start(FakeEngine(on_call=gate), wait=False)
    with server.channel() as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        assert check(health_pb2.HealthCheckRequest(service="liveness"), timeout=PATIENCE).status == SERVING
        assert check(health_pb2.HealthCheckRequest(service=""), timeout=PATIENCE).status == NOT_SERVING
    gate.open()
    server.ready()


def test_reflection_answers_under_the_name_of_version_1_too(start):
    from grpc_reflection.v1alpha import reflection_pb2

    with start().channel() as channel:
        ask = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        [answer] = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=PATIENCE)
    names = {service.name for service in answer.list_services_response.service}
    assert {*SERVICES, "grpc.reflection.v1.ServerReflection", "grpc.health.v1.Health"} <= names


def test_sighup_serves_a_new_revision_and_no_call_fails(tmp_path):
    revision = tmp_path / "revision"
    revision.write_text("first")
    server = Process("--host", "127.0.0.1", ECHO_REVISION=str(revision))
    address = server.until("listening")["address"]
    server.until("ready")
    over, revisions = threading.Event(), []

    def ask():
        with grpc.insecure_channel(address) as channel:
            stub = bart_pb2_grpc.SummarizationServiceStub(channel)
            while not over.is_set():
                revisions.append(stub.Summarize(pb.SummarizeRequest(text="hi"), timeout=PATIENCE).usage.model_revision)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: revisions)
    revision.write_text("second")
    server.process.send_signal(signal.SIGHUP)
    server.until("replaced")
    wait_until(lambda: revisions[-1] == "second")
    over.set()
    asking.join(PATIENCE)
    with grpc.insecure_channel(address) as channel:
        models = bart_pb2_grpc.ModelServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=PATIENCE).models
    assert [model.revision for model in models] == ["second"] and revisions == sorted(revisions)
    revision.unlink()
    server.process.send_signal(signal.SIGHUP)
    assert "not reloaded" in server.until_level("error")["message"]
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0
