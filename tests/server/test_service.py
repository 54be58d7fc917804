"""The protocol over gRPC. The engine answers with the source's tokens, and the tokenizer makes a token of each byte."""

import threading
import urllib.request

import grpc
import pytest
from bart_proto.v1 import bart_pb2 as pb
from bart_server.scheduling.tasks import Generate
from bart_server.telemetry.startup import LONGEST_WAIT
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from support.echo import FakeEngine
from tests.server.harness import PATIENCE, Gate, wait_until


def failure(call, *arguments, **keywords) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        response = call(*arguments, timeout=PATIENCE, **keywords)
        list(response) if hasattr(response, "__next__") else None
    return caught.value


def violation(error: grpc.RpcError) -> tuple[str, str]:
    """The field and description of a BadRequest."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    [packed] = rpc_status.from_call(error).details
    request = error_details_pb2.BadRequest()
    assert packed.Unpack(request)
    [violated] = request.field_violations
    return violated.field, violated.description


def test_summarize_answers_with_text_tokens_score_reason_counts_and_times(start, stubs):
    summary = stubs(start()).summarization.Summarize(pb.SummarizeRequest(text="héllo"), timeout=PATIENCE)
    [window] = summary.windows
    assert summary.text == window.summary.text == "héllo"
    assert (window.begin, window.end, window.input_tokens) == (0, 5, 8)
    assert len(window.summary.token_ids) == 7 and window.summary.token_ids[-1] == 2
    assert (window.summary.score, window.summary.finish_reason) == (-6.0, pb.FINISH_REASON_STOP)
    usage = summary.usage
    assert (usage.input_tokens, usage.output_tokens, usage.truncated) == (8, 7, False)
    assert (usage.model, usage.model_revision) == ("echo", "fake:echo")
    assert usage.HasField("queue_time") and usage.HasField("compute_time")


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("text", ["hello", "naïve 🙂 日本", "a\u0301"])
def test_a_streams_pieces_are_the_summary(start, stubs, text, beams):
    request = pb.StreamSummarizeRequest(text=text, options=pb.GenerationOptions(num_beams=beams))
    *deltas, last = stubs(start(chunk=1)).summarization.StreamSummarize(request, timeout=PATIENCE)
    assert last.summary.text == text
    assert "".join(message.delta.text for message in deltas) == text
    ids = [token for message in deltas for token in message.delta.token_ids]
    assert ids == list(last.summary.windows[0].summary.token_ids)


def test_a_stream_comes_while_it_is_made(start, stubs):
    gates = [threading.Event() for _ in range(3)]
    seen = iter(gates)

    def one_chunk_at_a_time(verb, requests):
        if verb == "step":
            assert next(seen).wait(PATIENCE)

    server = start(FakeEngine(on_call=one_chunk_at_a_time), chunk=2)
    stream = stubs(server).summarization.StreamSummarize(pb.StreamSummarizeRequest(text="abcde"), timeout=PATIENCE)
    texts = []
    for gate in gates:
        gate.set()
        texts.append(next(stream).delta.text)
    assert texts == ["ab", "cd", "e"]
    assert next(stream).summary.text == "abcde"


def test_a_batch_has_a_status_for_each_text(start, stubs):
    request = pb.BatchSummarizeRequest(texts=["one", "x" * 63, "three"])
    items = stubs(start()).summarization.BatchSummarize(request, timeout=PATIENCE).items
    assert [item.WhichOneof("result") for item in items] == ["summary", "error", "summary"]
    assert (items[0].summary.text, items[2].summary.text) == ("one", "three")
    error = items[1].error
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    status = status_pb2.Status.FromString(error.SerializeToString())
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    assert bad.field_violations[0].field == "texts[1]"
    assert "65 tokens, at most 64" in bad.field_violations[0].description


def test_generate_takes_token_ids_and_returns_as_many_sequences_as_asked_for(start, stubs):
    options = pb.GenerationOptions(num_beams=3, num_return_sequences=3)
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[0, 70, 71, 72, 2]), options=options)
    response = stubs(start()).generation.Generate(request, timeout=PATIENCE)
    assert [list(s.token_ids) for s in response.sequences] == [[70, 71, 72, 2], [70, 71, 2], [70, 2]]
    assert [s.score for s in response.sequences] == [-3.0, -4.0, -5.0]
    assert (response.usage.input_tokens, response.usage.output_tokens) == (5, 9)


def test_generate_tells_a_length_limit_from_an_end(start, stubs):
    request = pb.GenerateRequest(text="abc", options=pb.GenerationOptions(max_new_tokens=2))
    [sequence] = stubs(start()).generation.Generate(request, timeout=PATIENCE).sequences
    assert (sequence.text, sequence.finish_reason) == ("ab", pb.FINISH_REASON_LENGTH)


def test_stream_generate_ends_with_the_result(start, stubs):
    *deltas, last = stubs(start(chunk=1)).generation.StreamGenerate(
        pb.StreamGenerateRequest(text="abc"), timeout=PATIENCE
    )
    assert "".join(message.delta.text for message in deltas) == last.result.sequences[0].text == "abc"


def test_score_returns_a_log_probability_for_each_label_and_0_where_it_is_ignored(start, stubs):
    generation = stubs(start()).generation
    request = pb.ScoreRequest(token_ids=pb.TokenIds(ids=[0, 70, 2]), labels=pb.Labels(ids=[5, -100, 2]))
    response = generation.Score(request, timeout=PATIENCE)
    assert (list(response.labels.ids), list(response.log_probs)) == ([5, -100, 2], [-5.0, 0.0, -2.0])
    assert (response.usage.input_tokens, response.usage.output_tokens) == (3, 0)
    response = generation.Score(pb.ScoreRequest(text="abc", target_text="a"), timeout=PATIENCE)
    assert list(response.labels.ids)[::2] == [0, 2], "a text gets its special tokens"
    assert list(response.log_probs) == [-float(label) for label in response.labels.ids]


def test_score_cuts_a_long_source_where_it_may(start, stubs):
    request = pb.ScoreRequest(text="x" * 99, target_text="a", long_input=pb.LONG_INPUT_TRUNCATE)
    response = stubs(start()).generation.Score(request, timeout=PATIENCE)
    assert response.usage.truncated and response.usage.input_tokens == 64


@pytest.mark.parametrize(("multi", "expected"), [(False, [0.7311, 0.2689]), (True, [1.0, 1.0])])
def test_zero_shot_scores_are_those_of_the_entailment_logits(start, stubs, multi, expected):
    # The fake's entailment logit is the number of tokens, so the longer label wins by one: e / (1 + e) = 0.7311.
    request = pb.ClassifyZeroShotRequest(text="t", labels=["ab", "abc"], hypothesis_template="A {}.", multi_label=multi)
    response = stubs(start()).classification.ClassifyZeroShot(request, timeout=PATIENCE)
    assert [label.label for label in response.labels] == (["abc", "ab"])
    assert [label.score for label in response.labels] == pytest.approx(expected, abs=3e-3)
    assert response.usage.input_tokens == (1 + 5 + 4) + (1 + 6 + 4)


def test_model_service_tells_limits_and_digest(start, stubs):
    models = stubs(start(FakeEngine(), FakeEngine(tasks=(Generate,)), max_labels=7)).models
    first, second = models.ListModels(pb.ListModelsRequest(), timeout=PATIENCE).models
    assert (first.name, second.name) == ("echo", "echo1")
    assert list(first.tasks) == [pb.TASK_GENERATION, pb.TASK_CLASSIFICATION, pb.TASK_SCORING]
    assert list(second.tasks) == [pb.TASK_GENERATION]
    assert first.revision == "fake:echo"
    assert (list(first.limits.beams), list(first.limits.source_buckets)) == ([1, 3], [8, 64])
    assert (first.limits.source_tokens, first.limits.target_tokens, first.limits.labels) == (64, 64, 7)
    assert (list(first.limits.sampling_beams), first.limits.rows) == ([1, 3], 4)
    assert models.GetModel(pb.GetModelRequest(), timeout=PATIENCE).model == first
    assert models.GetModel(pb.GetModelRequest(name="echo1"), timeout=PATIENCE).model == second


def test_every_option_reaches_the_engine_under_its_hugging_face_name(start, stubs):
    seen = []
    server = start(FakeEngine(on_call=lambda verb, requests: seen.extend(r.payload for r in requests)))
    options = pb.GenerationOptions(
        length_penalty=0.6,
        early_stopping=pb.EARLY_STOPPING_NEVER,
        no_repeat_ngram_size=3,
        seed=2**32 - 1,
        forced_bos_token_id=pb.TokenIds(),
        forced_eos_token_id=pb.TokenIds(ids=[2]),
        suppress_tokens=pb.TokenIds(ids=[5, 6]),
        bad_words_ids=pb.TokenSequences(sequences=[pb.TokenIds(ids=[7, 8])]),
        sequence_bias=pb.SequenceBiases(biases=[pb.SequenceBias(ids=[9], bias=-0.1)]),
        exponential_decay_length_penalty=pb.ExponentialDecay(start=3, factor=1.1),
        max_new_tokens=5,
    )
    stubs(server).generation.Generate(pb.GenerateRequest(text="a", options=options), timeout=PATIENCE)
    assert seen[0] == {
        "length_penalty": 0.6,
        "early_stopping": "never",
        "no_repeat_ngram_size": 3,
        "seed": 2**32 - 1,
        "forced_bos_token_id": None,
        "forced_eos_token_id": [2],
        "suppress_tokens": [5, 6],
        "bad_words_ids": [[7, 8]],
        "sequence_bias": {(9,): -0.1},
        "exponential_decay_length_penalty": (3, 1.1),
        "max_new_tokens": 5,
        "num_return_sequences": 1,
    }


# ── long inputs ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("length", "fits"), [(1, True), (6, True), (7, True), (62, True), (63, False)])
def test_every_bucket_edge_fits_and_one_beyond_the_last_is_an_error(start, stubs, length, fits):
    summarization, request = stubs(start()).summarization, pb.SummarizeRequest(text="x" * length)
    if fits:
        assert summarization.Summarize(request, timeout=PATIENCE).text == "x" * length
    else:
        field, description = violation(failure(summarization.Summarize, request))
        assert (field, description) == ("text", "65 tokens, at most 64 fit; see long_input")


def test_truncate_keeps_the_beginning_and_says_so(start, stubs):
    request = pb.SummarizeRequest(text="x" * 62 + "yz", long_input=pb.LONG_INPUT_TRUNCATE)
    summary = stubs(start()).summarization.Summarize(request, timeout=PATIENCE)
    assert summary.text == "x" * 62
    assert summary.usage.truncated and summary.usage.input_tokens == 64
    assert summary.windows[0].end == 62


def test_chunk_splits_at_sentence_ends_and_lists_the_windows(start, stubs):
    sentences = ["The first sentence is here.", "The second one is here too!", "A third?"]
    text = "  " + " ".join(sentences) + "\n"
    request = pb.SummarizeRequest(text=text, long_input=pb.LONG_INPUT_CHUNK)
    summary = stubs(start()).summarization.Summarize(request, timeout=PATIENCE)
    assert [text[w.begin : w.end] for w in summary.windows] == [" ".join(sentences[:2]), sentences[2]]
    assert [w.summary.text for w in summary.windows] == [" ".join(sentences[:2]), sentences[2]]
    assert summary.text == " ".join(sentences)


def test_a_chunked_stream_is_in_order_and_joins_to_the_summary(start, stubs):
    text = " ".join(f"Sentence number {index} is here." for index in range(9))
    request = pb.StreamSummarizeRequest(text=text, long_input=pb.LONG_INPUT_CHUNK)
    *deltas, last = stubs(start()).summarization.StreamSummarize(request, timeout=PATIENCE)
    assert len(last.summary.windows) > 2
    assert "".join(message.delta.text for message in deltas) == last.summary.text == text
    windows = [message.delta.window for message in deltas]
    assert windows == sorted(windows) and set(windows) == set(range(len(last.summary.windows)))


def test_token_ids_that_are_cut_keep_the_last_one(start, stubs):
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[70] * 99 + [71]), long_input=pb.LONG_INPUT_TRUNCATE)
    response = stubs(start(FakeEngine(target_tokens=80))).generation.Generate(request, timeout=PATIENCE)
    assert list(response.sequences[0].token_ids) == [70] * 63 + [71, 2]
    assert response.usage.truncated and response.usage.input_tokens == 64


def test_too_many_windows_are_refused_by_name(start, stubs):
    request = pb.SummarizeRequest(text="word " * 100, long_input=pb.LONG_INPUT_CHUNK)
    error = failure(stubs(start(max_windows=2)).summarization.Summarize, request)
    assert violation(error) == ("text", "500 tokens need more than the limit of 2 windows")


def sentences(count):
    """A text that is split into `count` windows, because the echo engine's longest source has 64 tokens."""
    return " ".join(f"This is the sentence with the number {index}, it is fairly long." for index in range(count))


def test_the_windows_of_a_batch_count_as_requests_and_those_of_a_refused_text_leave_at_once(start, stubs):
    gate = Gate("encode")
    server = start(FakeEngine(on_call=gate), max_requests=8, workers=1)
    texts = ["first", sentences(5), sentences(4), "last"]
    request = pb.BatchSummarizeRequest(texts=texts, long_input=pb.LONG_INPUT_CHUNK)
    call = stubs(server).summarization.BatchSummarize.future(request, timeout=PATIENCE)
    gate.wait()
    wait_until(lambda: server.metric("bart_requests") == 1 + 5 + 1)
    gate.open()
    items = call.result().items
    assert [item.WhichOneof("result") for item in items] == ["summary", "summary", "error", "summary"]
    assert items[2].error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert len(items[1].summary.windows) == 5


def test_a_window_that_fails_takes_the_other_windows_of_its_text_along_and_nothing_else(start, stubs):
    failed, others_left = threading.Event(), threading.Event()

    def fail_once(verb, requests):
        if verb == "encode" and failed.is_set():
            assert others_left.wait(PATIENCE)
        if verb == "step" and len(requests[0].source) > 30 and not failed.is_set():
            failed.set()
            raise RuntimeError("lost")

    server = start(FakeEngine(on_call=fail_once, sizes=(1,)), workers=1)
    request = pb.BatchSummarizeRequest(texts=[sentences(9), "short"], long_input=pb.LONG_INPUT_CHUNK)
    call = stubs(server).summarization.BatchSummarize.future(request, timeout=PATIENCE)
    wait_until(lambda: server.metric("bart_failed_total", reason="Cancelled") == 8)
    others_left.set()
    items = call.result().items
    assert [item.WhichOneof("result") for item in items] == ["error", "summary"]


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────

REFUSALS = [
    ("summarization.Summarize", pb.SummarizeRequest(text=" \n"), "text", "blank, at least 1 visible character"),
    ("summarization.Summarize", pb.SummarizeRequest(text="x" * 101), "text", "101 bytes, at most 100"),
    ("summarization.Summarize", pb.SummarizeRequest(text="ж" * 51), "text", "102 bytes, at most 100"),
    ("summarization.Summarize", pb.SummarizeRequest(text="a", long_input=9), "long_input", "9 is no value"),
    (
        "summarization.Summarize",
        pb.SummarizeRequest(text="a", options=pb.GenerationOptions(num_beams=2)),
        "options.num_beams",
        "2 is not one of the compiled widths [1, 3]",
    ),
    (
        "summarization.Summarize",
        pb.SummarizeRequest(text="a", options=pb.GenerationOptions(num_return_sequences=2)),
        "options.num_return_sequences",
        "2, only Generate returns more than 1",
    ),
    (
        "summarization.Summarize",
        pb.SummarizeRequest(text="a", options=pb.GenerationOptions(temperature=float("nan"))),
        "options.temperature",
        "nan is not finite",
    ),
    (
        "summarization.Summarize",
        pb.SummarizeRequest(text="a", options=pb.GenerationOptions(early_stopping=7)),
        "options.early_stopping",
        "7 is no value",
    ),
    (
        "summarization.Summarize",
        pb.SummarizeRequest(text="a", options=pb.GenerationOptions(forced_bos_token_id=pb.TokenIds(ids=[1, 2]))),
        "options.forced_bos_token_id",
        "2 ids, at most 1",
    ),
    (
        "summarization.Summarize",
        pb.SummarizeRequest(
            text="a", options=pb.GenerationOptions(bad_words_ids=pb.TokenSequences(sequences=[pb.TokenIds()]))
        ),
        "options.bad_words_ids[0]",
        "0 tokens",
    ),
    ("summarization.BatchSummarize", pb.BatchSummarizeRequest(), "texts", "0 texts, between 1 and 3"),
    ("summarization.BatchSummarize", pb.BatchSummarizeRequest(texts="abcd"), "texts", "4 texts, between 1 and 3"),
    ("generation.Generate", pb.GenerateRequest(), "input", "either text or token_ids"),
    (
        "generation.Generate",
        pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5] * 65)),
        "token_ids",
        "65 tokens, at most 64 fit",
    ),
    ("generation.Generate", pb.GenerateRequest(text="a", long_input=3), "long_input", "for summaries only"),
    (
        "generation.StreamGenerate",
        pb.StreamGenerateRequest(text="a", options=pb.GenerationOptions(num_return_sequences=2)),
        "options.num_return_sequences",
        "only Generate",
    ),
    ("generation.Score", pb.ScoreRequest(target_text="a"), "input", "either text or token_ids"),
    ("generation.Score", pb.ScoreRequest(text="a"), "target", "either target_text or labels"),
    ("generation.Score", pb.ScoreRequest(text="a", target_text="x" * 101), "target_text", "101 bytes, at most 100"),
    ("generation.Score", pb.ScoreRequest(text="a", target_text="x" * 63), "target_text", "65 tokens, at most 64 fit"),
    ("generation.Score", pb.ScoreRequest(text="a", labels=pb.Labels(ids=[3] * 65)), "labels", "65 tokens, at most 64"),
    (
        "generation.Score",
        pb.ScoreRequest(text="a", target_text="b", long_input=pb.LONG_INPUT_CHUNK),
        "long_input",
        "for summaries only",
    ),
    ("classification.ClassifyZeroShot", pb.ClassifyZeroShotRequest(text="a"), "labels", "0 labels, between 1 and 2"),
    (
        "classification.ClassifyZeroShot",
        pb.ClassifyZeroShotRequest(text="a", labels=["b"], long_input=pb.LONG_INPUT_CHUNK),
        "long_input",
        "for summaries only",
    ),
    (
        "classification.ClassifyZeroShot",
        pb.ClassifyZeroShotRequest(text="a", labels="abc"),
        "labels",
        "3 labels, between 1 and 2",
    ),
    ("classification.ClassifyZeroShot", pb.ClassifyZeroShotRequest(text="a", labels=["b", " "]), "labels[1]", "blank"),
    (
        "classification.ClassifyZeroShot",
        pb.ClassifyZeroShotRequest(text="a", labels=["b" * 40]),
        "labels[0]",
        "57 bytes, at most 40",
    ),
    (
        "classification.ClassifyZeroShot",
        pb.ClassifyZeroShotRequest(text="a", labels=["b", "b" * 41]),
        "labels[1]",
        "41 bytes, at most 40",
    ),
    ("generation.Generate", pb.GenerateRequest(text="a", model="m" * 1001), "model", "1001 bytes, at most 1000"),
    (
        "generation.Generate",
        pb.GenerateRequest(text="a", options=pb.GenerationOptions(suppress_tokens=pb.TokenIds(ids=[5] * 70_000))),
        "options",
        "bytes, at most 65536",
    ),
    (
        "generation.Generate",
        pb.GenerateRequest(text="a", options=pb.GenerationOptions(suppress_tokens=pb.TokenIds(ids=[5] * 257))),
        "options.suppress_tokens",
        "257 entries, at most 256",
    ),
    (
        "generation.Generate",
        pb.GenerateRequest(
            text="a", options={"bad_words_ids": pb.TokenSequences(sequences=[pb.TokenIds(ids=[5])] * 257)}
        ),
        "options.bad_words_ids",
        "257 entries, at most 256",
    ),
    (
        "generation.Generate",
        pb.GenerateRequest(
            text="a", options={"bad_words_ids": pb.TokenSequences(sequences=[pb.TokenIds(ids=[5] * 9)])}
        ),
        "options.bad_words_ids[0]",
        "9 entries, at most 8",
    ),
    (
        "generation.Generate",
        pb.GenerateRequest(
            text="a", options={"sequence_bias": pb.SequenceBiases(biases=[pb.SequenceBias(ids=[5] * 9, bias=1.0)])}
        ),
        "options.sequence_bias[0]",
        "9 entries, at most 8",
    ),
    ("generation.Score", pb.ScoreRequest(text="a", labels=pb.Labels(ids=[3] * 70_000)), "labels", "at most 65536"),
    (
        "classification.ClassifyZeroShot",
        pb.ClassifyZeroShotRequest(text="a", labels=["b"], hypothesis_template="none"),
        "hypothesis_template",
        "holds {} 0 times",
    ),
]


@pytest.fixture(scope="module")
def limited():
    from tests.server.harness import Running

    server = Running(max_text_bytes=100, max_batch_items=3, max_labels=2, max_label_bytes=40).ready()
    yield server
    server.close()


@pytest.mark.parametrize(("method", "request_", "field", "description"), REFUSALS)
def test_bad_input_names_field_limit_and_value_and_costs_the_device_nothing(
    limited, stubs, method, request_, field, description
):
    service, name = method.split(".")
    before = list(limited.engines[0].calls)
    named = violation(failure(getattr(getattr(stubs(limited), service), name), request_))
    assert named[0] == field
    assert description in named[1]
    assert limited.engines[0].calls == before


def test_an_unknown_model_is_not_found_by_name(start, stubs):
    error = failure(stubs(start()).summarization.Summarize, pb.SummarizeRequest(model="gpt"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "model 'gpt' is not served; served: echo"


def test_a_model_that_cannot_classify_says_so(start, stubs):
    server = start(FakeEngine(tasks=(Generate,)))
    request = pb.ClassifyZeroShotRequest(text="a", labels=["b"])
    error = failure(stubs(server).classification.ClassifyZeroShot, request)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "model 'echo' cannot classify; it can: generate"


def test_without_a_free_place_a_call_is_refused_before_tokenizing_with_a_retry_hint(start, stubs):
    gate = Gate("encode")
    server = start(FakeEngine(on_call=gate), max_requests=1)
    summarization = stubs(server).summarization
    first = summarization.Summarize.future(pb.SummarizeRequest(text="one"), timeout=PATIENCE)
    gate.wait()
    error = failure(summarization.Summarize, pb.SummarizeRequest(text="x" * 1000))  # too long, had it been tokenized
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    [packed] = rpc_status.from_call(error).details
    retry = error_details_pb2.RetryInfo()
    assert packed.Unpack(retry) and retry.retry_delay.ToMilliseconds() == 1000
    assert 1000 <= int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) <= 2000
    gate.open()
    assert first.result().text == "one"
    assert server.metric("bart_refused_total", reason="Overloaded") == 1


def test_while_loading_calls_are_unavailable_and_health_is_not_serving(start, stubs):
    gate = Gate("compile")
    server = start(FakeEngine(on_call=gate), wait=False, metrics="127.0.0.1:0")
    error = failure(stubs(server).models.ListModels, pb.ListModelsRequest())
    message = "the models are being loaded, which may take 2 s more"
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, message)
    [packed] = rpc_status.from_call(error).details
    retry = error_details_pb2.RetryInfo()
    assert packed.Unpack(retry) and retry.retry_delay.ToMilliseconds() == 2000
    with server.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
    with urllib.request.urlopen(f"http://127.0.0.1:{server.process.metrics_port}/metrics", timeout=PATIENCE) as page:
        assert "bart_ready 0.0" in page.read().decode()
    gate.open()
    assert server.ready()


def test_while_loading_callers_are_told_how_long_the_rest_of_the_programs_will_take(start, stubs):
    gate, compiled = Gate("compile"), []

    def hold_the_fifth(verb, requests):
        if len(compiled) >= 4:
            gate(verb, requests)
        compiled.append(verb)

    engine = FakeEngine(priority=lambda bucket, size: 0, on_call=hold_the_fifth)
    server = start(engine, wait=False)
    gate.wait()
    server.runtime.startup.compiling_since -= 10.0  # four programs have taken ten seconds and a little
    progress = engine.progress()
    expected = 10.0 / progress.compiled * (progress.wanted - progress.compiled)
    error = failure(stubs(server).models.ListModels, pb.ListModelsRequest())
    [packed] = rpc_status.from_call(error).details
    retry = error_details_pb2.RetryInfo()
    assert packed.Unpack(retry)
    seconds = retry.retry_delay.ToMilliseconds() / 1000
    assert seconds == pytest.approx(min(expected, LONGEST_WAIT), rel=0.5), engine.progress()
    gate.open()
    assert server.ready()


def test_an_answer_names_no_path_and_no_stack(start, stubs):
    def broken(verb, requests):
        if verb == "step":
            raise RuntimeError("/secret/path.py: XLA error")

    error = failure(stubs(start(FakeEngine(on_call=broken))).summarization.Summarize, pb.SummarizeRequest(text="a"))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "the device failed")


def test_the_callers_request_id_comes_back(start, stubs):
    call = stubs(start()).summarization.Summarize.with_call(
        pb.SummarizeRequest(text="a"), metadata=(("x-request-id", "abc-1"),), timeout=PATIENCE
    )[1]
    assert dict(call.trailing_metadata())["x-request-id"] == "abc-1"
    call = stubs(start()).summarization.Summarize.with_call(
        pb.SummarizeRequest(text="a"), metadata=(("x-request-id", "1" * 128 + "2"),), timeout=PATIENCE
    )[1]
    assert dict(call.trailing_metadata())["x-request-id"] == "1" * 128


def test_no_message_may_be_larger_than_the_limit(start, stubs):
    server = start(max_message_bytes=1000, max_text_bytes=2000)
    summarization = stubs(server).summarization
    request = pb.SummarizeRequest(text="x" * 997, long_input=pb.LONG_INPUT_TRUNCATE)
    size = request.ByteSize()
    request.text = "x" * (997 - (size - 1000))
    assert request.ByteSize() == 1000
    assert summarization.Summarize(request, timeout=PATIENCE).usage.truncated
    request.text += "x"
    assert failure(summarization.Summarize, request).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_many_different_requests_at_once_are_each_as_if_alone(start, stubs):
    generation = stubs(start(FakeEngine(sizes=(1, 2, 4)))).generation
    asked = [
        pb.GenerateRequest(
            text=chr(97 + index) * (1 + index % 50), options=pb.GenerationOptions(num_beams=(1, 3)[index % 2])
        )
        for index in range(26)
    ]
    calls = [generation.Generate.future(request, timeout=PATIENCE) for request in asked]
    assert [call.result().sequences[0].text for call in calls] == [request.text for request in asked]


def test_the_labels_of_a_long_text_bring_at_most_eight_of_the_longest_texts(start, stubs):
    classify = stubs(start(max_text_bytes=20)).classification.ClassifyZeroShot
    text = "x" * 20
    request = pb.ClassifyZeroShotRequest(text=text, labels=["a"] * 8, hypothesis_template="{}")
    assert len(classify(request, timeout=PATIENCE).labels) == 8
    request.labels.append("b")
    named = violation(failure(classify, request))
    assert named == ("labels", "9 times the text are 180 bytes, at most 160")
