"""Every method, called without grpc and without a network, answers as over gRPC and frees its places."""

import json
import subprocess
import sys

import pytest
from bart_server.services.methods import METHODS

from tests.server.without_transport import CHUNK, PATIENCE, REQUESTS, timeless

COMPUTING = [name for name in METHODS if not name.startswith("/bart.v1.ModelService/")]
STREAMS = [name for name, method in METHODS.items() if method.streams]


@pytest.fixture(scope="module")
def report():
    command = [sys.executable, "-m", "tests.server.without_transport"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=10 * PATIENCE)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_neither_grpc_nor_jax_is_imported(report):
    assert {"bart_server", "bart_proto"} <= set(report["imported"])
    assert not {"grpc", "grpc_health", "grpc_reflection", "jax"} & set(report["imported"])


def test_every_method_is_driven():
    assert set(REQUESTS) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_the_answer_is_the_one_over_grpc(report, start, name):
    method = METHODS[name]
    with start(chunk=CHUNK, workers=1).channel() as channel:
        kinds = {"request_serializer": None, "response_deserializer": method.response.FromString}
        request = REQUESTS[name].SerializeToString()
        if method.streams:
            messages = list(channel.unary_stream(name, **kinds)(request, timeout=PATIENCE))
        else:
            messages = [channel.unary_unary(name, **kinds)(request, timeout=PATIENCE)]
    answers = [method.response.FromString(bytes.fromhex(message)) for message in report[name]["answer"]]
    assert timeless(answers[-1]) == timeless(messages[-1])
    if method.streams:  # how many tokens a message has depends on when it is fetched
        texts = ["".join(message.delta.text for message in answer[:-1]) for answer in (answers, messages)]
        assert texts == ["hello there"] * 2


@pytest.mark.parametrize("name", METHODS)
def test_a_call_that_is_over_before_it_begins_costs_the_device_nothing(report, name):
    assert report[name]["cancelled before"] == "CANCELLED"
    assert report[name]["expired before"] == "DEADLINE_EXCEEDED"
    assert not report[name]["the device was asked"]


@pytest.mark.parametrize("name", COMPUTING)
def test_a_call_that_ends_while_the_device_is_busy_frees_its_places(report, name):
    outcomes = report[name]
    assert outcomes["cancelled while the device is busy"] == "CANCELLED"
    assert outcomes["its task is cancelled"] == "CancelledError"
    assert outcomes["expired while the device is busy"] == "DEADLINE_EXCEEDED"
    assert outcomes["its places are free"], "after `Call.cancel`"
    assert outcomes["places are free after the task"]
    assert outcomes["places are free after the deadline"]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_nobody_reads_frees_its_places_when_its_call_ends(report, name):
    outcomes = report[name]
    codes = {"cancelled": "CANCELLED", "expired": "DEADLINE_EXCEEDED", "closed": "no more"}
    for ending, code in codes.items():
        assert outcomes[f"first piece before it is {ending}"] == "hello there"[:CHUNK]
        assert outcomes[f"a suspended stream that is {ending}"] == code
        assert outcomes[f"places are free after it is {ending}"] is True
