"""The Python client with a real server, whose fake engine answers with the source's tokens."""

import asyncio
import subprocess
import sys
import threading
import time

import grpc
import pytest
import trustme
from bart_client import AsyncClient, BartError, Client, Security, Summary
from bart_client.requests import options as to_message
from bart_inference.generation.options import NONE_MEANS
from bart_proto.v1 import bart_pb2 as pb
from bart_server.services import conversion

from support.echo import FakeEngine
from tests.server.harness import PATIENCE, Gate, wait_until


@pytest.fixture
def client(start):
    server = start()
    with Client(server.address, timeout=PATIENCE) as connected:
        yield connected


def test_summarize_generate_classify_and_models(client):
    summary = client.summarize("hello", num_beams=3)
    assert (summary.text, summary.usage.output_tokens, summary.usage.model) == ("hello", 6, "echo")
    assert summary.windows[0].summary.finish_reason == "stop"
    generated = client.generate([0, 70, 71, 2], num_beams=3, num_return_sequences=2)
    assert [sequence.token_ids for sequence in generated.sequences] == [(70, 71, 2), (70, 2)]
    scored = client.score("hello", [5, -100, 2])
    assert (scored.labels, scored.log_probs, scored.log_prob) == ((5, -100, 2), (-5.0, 0.0, -2.0), -7.0)
    assert client.score([0, 70, 2], "a").labels[0] == 0
    labels = client.classify("text", ["ab", "abcd"], hypothesis_template="A {}.").labels
    assert [label.label for label in labels] == ["abcd", "ab"]
    assert client.models()[0].limits.source_tokens == 64


def test_a_stream_is_the_summary_in_pieces(client):
    stream = client.stream("hello there", long_input="truncate")
    assert "".join(stream) == stream.result.text == "hello there"
    generated = client.stream_generate("hello", max_new_tokens=3)
    assert "".join(generated) == generated.result.text == "hel"


def test_a_batch_has_an_error_in_place_of_a_summary(client):
    one, two = client.summarize_batch(["fine", "x" * 99])
    assert isinstance(one, Summary) and one.text == "fine"
    assert isinstance(two, BartError) and two.field == "texts[1]"


def test_an_error_names_the_field_and_the_call(client):
    with pytest.raises(BartError) as error:
        client.summarize("hello", num_beams=2)
    assert error.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.field == "options.num_beams"
    assert len(error.value.request_id) == 32


def test_the_server_reads_the_options_that_the_client_was_called_with():
    values = {
        "max_length": 20,
        "early_stopping": True,
        "length_penalty": 0.6,
        "forced_bos_token_id": None,
        "forced_eos_token_id": 2,
        "suppress_tokens": [3, 4],
        "bad_words_ids": [[5], [6, 7]],
        "sequence_bias": {(8, 9): -1.5},
        "exponential_decay_length_penalty": (4, 1.2),
        "do_sample": False,
    }
    assert conversion.options(to_message(values)) == values | {"forced_eos_token_id": [2]}


def test_none_switches_every_option_off():
    names = pb.GenerationOptions.DESCRIPTOR.fields_by_name
    without = {"max_length", "max_new_tokens", "seed", "decoder_start_token_id"}
    # A message has no None for these two options, so the client sends values that have no effect.
    off = NONE_MEANS | {"min_new_tokens": 0, "exponential_decay_length_penalty": (0, 1.0)}
    for name in set(names) - without:
        assert conversion.options(to_message({name: None})) == {name: off[name]}


@pytest.mark.parametrize(
    ("values", "error"),
    [({"beams": 4}, TypeError), ({"num_beams": "x"}, ValueError), ({"max_length": None}, ValueError)],
)
def test_what_cannot_be_an_option_is_an_error_before_any_call(values, error):
    with pytest.raises(error):
        to_message(values)


def test_asyncio_is_the_same_with_await(start):
    server = start()

    async def use():
        async with AsyncClient(server.address, timeout=PATIENCE) as client:
            await client.wait_ready(PATIENCE)
            texts = [f"text {index}" for index in range(20)]
            summaries = await asyncio.gather(*map(client.summarize, texts))
            assert [summary.text for summary in summaries] == texts
            stream = client.stream("abc")
            assert "".join([part async for part in stream]) == stream.result.text == "abc"
            stream = client.stream_generate("abc")
            assert "".join([part async for part in stream]) == "abc"
            assert (await client.generate("abc")).text == "abc"
            assert len((await client.classify("a", ["b"])).labels) == 1
            assert (await client.models())[0].name == "echo"
            assert isinstance((await client.summarize_batch(["x" * 99]))[0], BartError)
            with pytest.raises(BartError):
                await client.summarize("x" * 99)

    asyncio.run(use())


def test_a_refused_call_is_tried_again_until_there_is_room(start):
    gate = Gate("encode")
    server = start(FakeEngine(on_call=gate), max_requests=1)
    with Client(server.address, timeout=PATIENCE) as client:
        answers = []
        threads = [
            threading.Thread(target=lambda text=text: answers.append(client.summarize(text).text))
            for text in ("a", "b")
        ]
        for thread in threads:
            thread.start()
        gate.wait()
        wait_until(lambda: server.metric("bart_refused_total", reason="Overloaded") >= 1)
        gate.open()
        for thread in threads:
            thread.join(PATIENCE)
    assert sorted(answers) == ["a", "b"]


def test_retries_end_with_the_timeout(start):
    gate = Gate("encode")
    server = start(FakeEngine(on_call=gate), max_requests=1)
    with Client(server.address, timeout=PATIENCE) as client, Client(server.address, timeout=0.5) as hasty:
        thread = threading.Thread(target=client.summarize, args=("a",))
        thread.start()
        gate.wait()
        began = time.monotonic()
        with pytest.raises(BartError):
            hasty.summarize("b")
        assert time.monotonic() - began < 3
        gate.open()
        thread.join(PATIENCE)


def test_it_waits_for_a_server_that_is_loading(start):
    gate = Gate("compile")
    server = start(FakeEngine(on_call=gate), wait=False)
    with Client(server.address, timeout=PATIENCE) as client:
        with pytest.raises(BartError, match="no server is ready after 0"):
            client.wait_ready(0.3)
        gate.open()
        client.wait_ready(PATIENCE)
        assert client.summarize("up").text == "up"


def test_a_draining_server_is_left_for_another_one(start):
    stepping = Gate("step")
    first, second = start(FakeEngine(on_call=stepping)), start()
    target = f"ipv4:{first.address},{second.address}"
    with Client(target, timeout=PATIENCE) as client:
        client.wait_ready(PATIENCE)
        with Client(first.address, timeout=PATIENCE) as busy:
            thread = threading.Thread(target=busy.summarize, args=("held",))
            thread.start()
            stepping.wait()
            first.signal()
            wait_until(lambda: not first.process.health.serving)
            assert [client.summarize(f"t{index}").text for index in range(6)] == [f"t{index}" for index in range(6)]
            stepping.open()
            thread.join(PATIENCE)


def test_tls_with_a_client_certificate_and_a_token(start, tmp_path):
    authority = trustme.CA()
    for name, leaf in (
        ("server", authority.issue_cert("bart.example")),
        ("client", authority.issue_cert("me.example")),
    ):
        (tmp_path / f"{name}.pem").write_bytes(leaf.cert_chain_pems[0].bytes())
        (tmp_path / f"{name}.key").write_bytes(leaf.private_key_pem.bytes())
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "tokens").write_text("secret")
    path = lambda name: str(tmp_path / name)
    server = start(
        tls_cert=path("server.pem"), tls_key=path("server.key"), tls_client_ca=path("ca.pem"), token_file=path("tokens")
    )
    security = Security(path("ca.pem"), path("client.pem"), path("client.key"), name="bart.example")
    with Client(server.address, security=security, token="secret", timeout=PATIENCE) as client:
        assert client.summarize("safe").text == "safe"
    with (
        Client(server.address, security=security, token="wrong", timeout=PATIENCE) as client,
        pytest.raises(BartError, match="UNAUTHENTICATED"),
    ):
        client.summarize("safe")


def test_it_imports_without_jax_and_without_the_server():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['jax', 'numpy', 'torch', 'tokenizers', 'bart_server', "
        "'bart_inference', 'bart_oneliner', 'grpc_health'])); import bart_client, bart_client.__main__; print('fine')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "fine\n"
