"""The engine with a random model: a request's tokens are those of `generate` for it alone, whatever runs beside it."""

import gc
import json
import math
import random
import threading
import weakref
from functools import partial

import jax
import numpy as np
import pytest
from bart_inference import Model, Prepared, classify, generate, load, prepare, score
from bart_inference.checkpoint import embedded as embedded_folder
from bart_inference.model import onednn
from bart_server.engine.cache import ProgramCache
from bart_server.engine.engine import JaxEngine, essential_first
from bart_server.engine.packing import EncoderShape, encoder_shapes, pack_sources
from bart_server.engine.platform import COMPILATION
from bart_server.engine.shapes import Shapes
from bart_server.scheduling.admission import Budget
from bart_server.scheduling.errors import DeviceFault, InvalidArgument
from bart_server.scheduling.scheduler import Scheduler
from bart_server.scheduling.tasks import Classify, Generate, Score
from bart_server.telemetry.metrics import Metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from bart_oneliner import Config, init
from tests.server.harness import PATIENCE, Mailbox, working

CONFIG = Config(
    vocab_size=97,
    d_model=32,
    encoder_layers=1,
    decoder_layers=2,
    encoder_attention_heads=2,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=40,
    max_position_embeddings=24,
    init_std=0.7,  # so large that attention is far from uniform and any influence of a neighbor would show
)
GENERATION = {
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    "max_length": 20,
}
# As few shapes as possible, because each program takes seconds to compile. So do the programs of `generate`: most
# sources below have more than 16 tokens, so that `generate` pads them all to one length.
SHAPES = Shapes(beams=(1, 3), sampling_beams=(1,), sources=(24,), target=24, rows=(1, 3))


def model(scale: float = 1.0) -> Prepared:
    params = init(CONFIG, jax.random.key(5))
    return prepare(Model(jax.tree.map(lambda leaf: leaf * scale, params), CONFIG, GENERATION, None))


@pytest.fixture(scope="session")
def prepared():
    return model()


@pytest.fixture(scope="session")
def engine(prepared, programs):
    compiled = JaxEngine(prepared, "sha256:test", SHAPES, cache=programs)
    compiled.compile(lambda: False)
    return compiled


class SchedulerDriver:
    """A scheduler over the engine. It has no worker threads: the test itself calls its iterations."""

    def __init__(self, engine, chunk=3, workers=1, observer=None):
        self.engine = engine
        self.scheduler = Scheduler(Budget(), chunk, observer, workers=workers)
        self.scheduler.add("bart", engine)

    def ask(self, source, stream=False, **options):
        boxes = self.put(Generate(source, options, stream))
        return boxes[0] if len(boxes) == 1 else boxes

    def put(self, task_input):
        boxes = []
        for request in self.engine.requests(task_input):
            box = Mailbox()
            with self.scheduler.reserve(self.engine) as reservation:
                box.job = self.scheduler.submit(reservation, request, box)
            boxes.append(box)
        return boxes

    def work(self):
        while self.scheduler.iterate():
            pass


def alone(prepared, source, **options):
    """The answers of `generate` to this source alone: a list of (tokens without the start token, score)."""
    generated = generate(prepared, [source], **options)
    rows = zip(generated.sequences, generated.lengths, generated.sequences_scores, strict=True)
    return [(tuple(ids[1:length].tolist()), float(score)) for ids, length, score in rows]


def answers(box):
    return [(hypothesis.tokens, hypothesis.score) for hypothesis in box.finish.hypotheses]


def same(actual, expected):
    """Checks that answers, lists of (tokens, score), have equal tokens, and scores that differ by rounding only."""
    assert [tokens for tokens, _ in actual] == [tokens for tokens, _ in expected]
    assert [score for _, score in actual] == pytest.approx([score for _, score in expected], rel=1e-4, abs=1e-5)


def source(length, seed):
    """Random token ids between a start and an end token."""
    return [0, *random.Random(seed).choices(range(3, 97), k=length - 2), 2]


MIXED = [
    {},
    {"max_new_tokens": 16},
    {"max_length": 24, "min_length": 20},
    {"no_repeat_ngram_size": 2, "max_length": 24},
    {"repetition_penalty": 1.7, "length_penalty": 2.0},
    {"num_beams": 3},
    {"num_beams": 3, "num_return_sequences": 3, "early_stopping": True},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.5, "max_length": 24},
    {"num_beams": 3, "no_repeat_ngram_size": 3, "min_length": 10},
    {"num_beams": 3, "forced_bos_token_id": 0, "suppress_tokens": [5, 6, 7]},
    {"do_sample": True, "seed": 7, "top_k": 5},
    {"do_sample": True, "seed": 8, "temperature": 3.0, "top_k": 0},
    {"bad_words_ids": [[9], [10, 11]], "sequence_bias": {(12,): 3.0}},
    {"forced_eos_token_id": None, "eos_token_id": None},
]


def test_mixed_beams_lengths_and_options_together_are_each_as_alone(engine, prepared):
    driver = SchedulerDriver(engine)
    asked = [(source(17 + (5 * index) % 8, index), MIXED[index % len(MIXED)]) for index in range(2 * len(MIXED))]
    boxes = []
    for ids, options in asked:  # some arrive while others decode
        boxes.append(driver.ask(ids, **options))
        driver.scheduler.iterate()
    driver.work()
    for (ids, options), box in zip(asked, boxes, strict=True):
        same(answers(box), alone(prepared, ids, **options))


@pytest.mark.parametrize(("length", "expected"), [(1, 8), (7, 8), (8, 8), (9, 24), (23, 24), (24, 24)])
def test_a_source_goes_to_the_shortest_bucket_that_holds_it(prepared, length, expected):
    [request] = JaxEngine(prepared, "sha256:test", SHAPES._replace(sources=(8, 24))).requests(Generate([3] * length))
    assert request.buckets[0].source == expected


@pytest.mark.parametrize("length", [1, 2, 23, 24])
def test_the_shortest_and_the_longest_sources_are_as_alone(engine, prepared, length):
    ids = source(length, length) if length > 1 else [2]
    driver = SchedulerDriver(engine)
    box = driver.ask(ids)
    driver.work()
    same(answers(box), alone(prepared, ids))


def test_a_source_of_special_tokens_only_is_as_alone(engine, prepared):
    driver = SchedulerDriver(engine)
    box = driver.ask([0, 2, 2, 1, 1])
    driver.work()
    same(answers(box), alone(prepared, [0, 2, 2, 1, 1]))


@pytest.mark.parametrize("beams", [1, 3])
def test_neighbors_that_come_go_and_are_cancelled_change_no_bit(engine, beams):
    """Both runs use the same compiled shape, because the first neighbor stays in the batch to the end."""

    def run(neighbors):
        driver = SchedulerDriver(engine, chunk=2)
        stays = driver.ask(source(20, 50), num_beams=beams, min_length=24, max_length=24)
        box = driver.ask(source(20, 1), num_beams=beams, max_length=24)
        driver.scheduler.iterate()
        if neighbors:
            gone = driver.ask(source(15, 60), num_beams=beams, min_length=16)
            driver.scheduler.iterate()
            driver.scheduler.cancel(gone.job)
            driver.ask(source(18, 70), num_beams=beams, temperature=2.0, no_repeat_ngram_size=2)
        driver.work()
        assert stays.finish
        return answers(box)

    assert run(neighbors=True) == run(neighbors=False)


def test_workers_side_by_side_change_no_answer(engine, prepared):
    driver = SchedulerDriver(engine, workers=3)
    asked = [(source(17 + (5 * index) % 8, index), MIXED[index % len(MIXED)]) for index in range(2 * len(MIXED))]
    with working(driver.scheduler, 3):
        boxes = [driver.ask(ids, **options) for ids, options in asked]
        assert all(box.ended.wait(PATIENCE) for box in boxes)
    for (ids, options), box in zip(asked, boxes, strict=True):
        same(answers(box), alone(prepared, ids, **options))


def test_neighbors_in_the_same_encoded_row_change_no_bit(engine):
    """In each run the source has another position in a row of the same length, and neighbors with other tokens."""

    def run(neighbors):
        driver = SchedulerDriver(engine)
        box = driver.ask(source(20, 1), max_length=24)
        for ids in neighbors:
            driver.ask(ids, min_length=24, max_length=24)
        driver.work()
        return answers(box)

    runs = [[source(24, 50)], [source(19, 51)], [source(22, 52)]]
    chosen = [pack_sources([20, len(ids)], encoder_shapes(24, 3)) for [ids] in runs]
    assert [[batch.shape for batch in batches] for batches in chosen] == [[EncoderShape(1, 64)]] * 3
    assert len({str(run(neighbors)) for neighbors in runs}) == 1


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 3}])
def test_a_streams_tokens_are_the_answers(engine, options):
    driver = SchedulerDriver(engine, chunk=1)
    box = driver.ask(source(20, 4), stream=True, max_length=24, **options)
    driver.work()
    assert sum(box.deltas, ()) == box.finish.hypotheses[0].tokens
    assert len(box.deltas) > 1


def test_samples_of_one_source_are_those_of_generate(engine, prepared):
    driver = SchedulerDriver(engine)
    options = {"do_sample": True, "num_return_sequences": 3, "seed": 11}
    boxes = driver.ask(source(20, 5), **options)
    driver.work()
    same([answer for box in boxes for answer in answers(box)], alone(prepared, source(20, 5), **options))


def test_unseeded_samples_differ_from_request_to_request(engine):
    driver = SchedulerDriver(engine)
    boxes = [driver.ask(source(12, 5), do_sample=True, temperature=5.0, top_k=0) for _ in range(4)]
    driver.work()
    assert len({box.finish.hypotheses[0].tokens for box in boxes}) > 1


@pytest.mark.parametrize("value", [2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize(
    "name",
    ["no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens", "top_k", "decay"],
)
def test_a_value_beyond_every_sequence_means_what_the_longest_sequence_means(engine, name, value):
    """The largest int32 and uint32 are computed like a value that no sequence reaches, without an error."""

    def answered(number):
        options = {name: number}
        if name == "decay":
            options = {"exponential_decay_length_penalty": (number, 1.5)}
        driver = SchedulerDriver(engine)
        box = driver.ask(source(12, 5), do_sample=name == "top_k", seed=1, **options)
        driver.work()
        return answers(box)

    assert answered(value) == answered(128)  # the model has 24 positions and 97 token ids


def test_the_largest_biases_and_factors_give_finite_scores(engine):
    for options in ({"sequence_bias": {(7,): 1e9}}, {"exponential_decay_length_penalty": (0, 1e6)}):
        for beams in (1, 3):
            driver = SchedulerDriver(engine)
            box = driver.ask(source(12, 5), num_beams=beams, min_length=20, **options)
            driver.work()
            assert np.isfinite([score for _, score in answers(box)]).all(), options


def test_only_small_plans_are_kept(engine):
    """Resolved options are cached by a text that contains them, so options with long lists would fill the memory."""
    [task] = {engine.work(bucket) for bucket in engine.buckets if bucket.beams > 1}
    words = [[token, token] for token in range(3, 93)]
    for seed in range(20):
        engine.requests(Generate(source(12, 5), {"bad_words_ids": words, "seed": seed}))
    assert max(map(len, task._resolved)) <= 1000, "characters of a key"


def test_finish_reasons_tell_the_models_end_from_the_limit(engine):
    driver = SchedulerDriver(engine)
    forced, unforced = (
        driver.ask(source(12, 5), max_new_tokens=2),
        driver.ask(source(12, 5), max_new_tokens=2, forced_eos_token_id=None),
    )
    ended = driver.ask(source(12, 5), sequence_bias={(2,): 1000.0})
    driver.work()
    assert [box.finish.hypotheses[0].stopped for box in (forced, unforced, ended)] == [False, False, True]
    assert forced.finish.hypotheses[0].tokens[-1] == 2 and ended.finish.hypotheses[0].tokens == (2,)


def test_sources_are_encoded_behind_each_other_in_the_rows_that_leave_least_empty():
    def chosen(sources, longest, rows, devices=1):
        shapes = encoder_shapes(longest, rows)
        batches = pack_sources(sources, shapes, devices)
        assert {batch.shape for batch in batches} <= set(shapes)
        return [(*batch.shape, batch.rows) for batch in batches]

    assert encoder_shapes(24, 1) == [(1, 32)]
    assert encoder_shapes(24, 3) == [(1, 32), (1, 64), (1, 96)]
    assert [length for rows, length in encoder_shapes(200, 2) if rows == 1] == [32, 64, 96, 112, 128, 192, 256]
    assert encoder_shapes(200, 2)[7:] == [(2, 96), (2, 112), (2, 128)]
    assert encoder_shapes(2000, 1)[-2:] == [(1, 1024), (1, 2000)]
    assert chosen([9], 100, 8) == [(1, 32, [[(0, 0)]])]
    assert chosen([9, 40, 15], 100, 8) == [(1, 64, [[(1, 0), (2, 40), (0, 55)]])]
    assert chosen([70, 100, 56, 28], 100, 8) == [(2, 128, [[(1, 0), (3, 100)], [(0, 0), (2, 70)]])]
    assert chosen([300, 20, 30], 500, 8) == [(1, 384, [[(0, 0)]]), (1, 64, [[(2, 0), (1, 30)]])], "long ones are alone"
    assert chosen([90, 50, 40], 100, 8) == [(2, 96, [[(0, 0)], [(1, 0), (2, 50)]])], "192 positions and not 256"
    assert chosen([100] * 5, 500, 8) == [(4, 112, [[(i, 0)] for i in range(4)]), (1, 112, [[(4, 0)]])]
    assert chosen([60, 50, 60, 9], 100, 8, 3) == [(1, 64, [[(0, 0)], [(2, 0)], [(1, 0), (3, 50)]])], "over all devices"
    assert chosen([60, 50, 60, 50, 90], 100, 8, 2) == [
        (2, 112, [[(0, 0), (1, 60)], [(2, 0), (3, 60)], [(4, 0)]]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("longest", "rows", "devices"), [(24, 3, 1), (100, 8, 1), (100, 2, 8), (512, 8, 2), (300, 1, 4)]
)
def test_whatever_comes_is_encoded_in_a_compiled_shape_and_fits(longest, rows, devices):
    chance = random.Random(0)
    shapes = encoder_shapes(longest, rows)
    for _ in range(300):
        sources = [
            chance.choice((1, longest, chance.randint(1, longest))) for _ in range(chance.randint(1, rows * devices))
        ]
        batches = pack_sources(sources, shapes, devices)
        assert {batch.shape for batch in batches} <= set(shapes), sources
        assert sorted(index for batch in batches for row in batch.rows for index, _ in row) == list(range(len(sources)))
        for batch in batches:
            assert len(batch.rows) <= batch.shape.rows * devices
            for row in batch.rows:
                ends = [start + sources[index] for index, start in row]
                assert [start for _, start in row] == [0, *ends[:-1]] and ends[-1] <= batch.shape.length


def test_nothing_compiles_while_serving(engine, prepared):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    driver = SchedulerDriver(engine)
    boxes = []
    for index in range(30):
        boxes.append(driver.ask(source(2 + index % 23, index), stream=index % 2 == 0, **MIXED[index % len(MIXED)]))
        if index % 3 == 0:
            driver.scheduler.cancel(driver.ask(source(9, index)).job)
        driver.scheduler.iterate()
    driver.work()
    assert compiled == []
    assert all(box.finish.hypotheses for box in boxes), "a request was not answered"
    jax.jit(lambda x: x + len(compiled))(1.0)
    assert compiled, "the listener does not hear compilations"


def test_served_with_a_few_programs_and_the_rest_in_the_background_the_answers_are_the_same_and_nobody_waits(prepared):
    def priority(shapes, bucket, size, encoder):
        return int((bucket.source, size) != (24, 2))

    shapes = Shapes(beams=(1,), sampling_beams=(), sources=(20, 24), target=24, rows=(1, 2))
    engine = JaxEngine(prepared, "sha256:subset", shapes, priority)
    engine.compile(lambda: False)
    assert {(bucket.source, sizes) for bucket, sizes in engine.open.items()} == {(24, (2,))}
    metrics = Metrics()
    metrics.ready(True)

    def listen(event, duration, **_):
        if event == COMPILATION:
            metrics.compiled()

    jax.monitoring.register_event_duration_secs_listener(listen)
    compiling = threading.Thread(target=engine.compile, args=(lambda: False, True))
    driver, boxes, sources = SchedulerDriver(engine, workers=2, observer=metrics), [], set()
    with working(driver.scheduler, 2):
        compiling.start()
        while compiling.is_alive() or len(boxes) < 16:
            pair = [
                driver.ask(source(17 + index % 4, index), max_length=24) for index in range(len(boxes), len(boxes) + 2)
            ]
            assert all(box.ended.wait(PATIENCE) for box in pair)
            boxes += pair
            sources |= {box.job.bucket.source for box in pair}
        last = driver.ask(source(17, 0), max_length=24)
        assert last.ended.wait(PATIENCE)
    assert sources == {20, 24} and last.job.bucket.source == 20, "the better bucket was used when it had opened"
    assert all(engine.open[bucket] == (1, 2) for bucket in engine.buckets)
    for box in [*boxes[:8], *boxes[-8:]]:
        same(answers(box), alone(prepared, list(box.job.request.source), max_length=24))
    count = metrics.registry.get_sample_value
    assert count("bart_compiles_after_ready_total") > 0
    assert count("bart_requests_waited_for_compilation_total") == 0


def test_ready_with_the_essential_programs_the_embedded_checkpoint_answers_as_with_all_of_them(programs):
    """At first every source is encoded in the longest encoder row, the only one that is compiled."""
    embedded = prepare(load())
    lines = (embedded_folder() / "examples.jsonl").read_text().splitlines()[:4]
    sources = [embedded.tokenizer.encode(json.loads(line)["document"]).ids[:64] for line in lines]
    shapes = Shapes(beams=(4,), sampling_beams=(), sources=(64, 128), target=48, rows=(1, 2))
    engine = JaxEngine(embedded, "sha256:embedded", shapes, essential_first, programs)
    engine.compile(lambda: False)
    assert {(bucket.source, sizes) for bucket, sizes in engine.open.items()} == {(128, (1,))}
    assert engine.progress().compiled < 10 < engine.progress().wanted
    metrics = Metrics()
    driver = SchedulerDriver(engine, observer=metrics)

    def answer_all():
        boxes = [driver.ask(ids) for ids in sources]
        driver.work()
        return [answers(box) for box in boxes]

    def count():
        return metrics.registry.get_sample_value("bart_requests_oversized_total", {"model": "bart"})

    before = answer_all()
    assert count() == len(sources)
    compiling = threading.Thread(target=engine.compile, args=(lambda: False, True))
    compiling.start()
    compiling.join(600)
    assert engine.progress().compiled == engine.progress().wanted
    after = answer_all()
    assert count() == len(sources)
    for ids, early, late in zip(sources, before, after, strict=True):
        expected = alone(embedded, ids)
        same(early, expected)
        same(late, expected)


@pytest.mark.skipif(not onednn.available(), reason="without oneDNN there is no later layout")
def test_programs_that_call_onednn_take_over(tmp_path, monkeypatch):
    """A request that runs while programs are replaced is answered rightly. Programs that call oneDNN are not stored."""
    params = init(CONFIG, jax.random.key(5))
    random_model = Model(params, CONFIG, GENERATION, None)
    prepared = prepare(random_model, "cpu")
    shapes = Shapes(beams=(3,), sampling_beams=(), sources=(24,), target=24, rows=(1,))
    saved = []
    monkeypatch.setattr(ProgramCache, "save", lambda cache, name, executable: saved.append(executable))
    cache = ProgramCache(tmp_path, 2**30, 30)
    later = partial(prepare, random_model, "onednn")
    engine = JaxEngine(prepared, "sha256:later", shapes, essential_first, cache, later)
    assert engine.description.layout == "XLA, then oneDNN panels"
    engine.compile(lambda: False)
    stored = len(saved)
    assert stored == engine.progress().compiled > 4
    old = weakref.ref(engine._model.weights["shared"])
    driver = SchedulerDriver(engine, chunk=3)
    before, across = (
        driver.ask(source(20, 1), num_beams=3),
        driver.ask(source(21, 2), num_beams=3, max_length=24, min_length=24),
    )
    while not before.ended.is_set():
        driver.scheduler.iterate()
    driver.scheduler.iterate()
    assert not across.ended.is_set()
    compiling = threading.Thread(target=engine.compile, args=(lambda: False, True))
    compiling.start()
    compiling.join(600)
    assert engine.progress().compiled == engine.progress().wanted
    assert not any(onednn.TARGET in executable.as_text() for executable in saved)
    step = engine.store["step", engine.buckets[0], 1]
    assert onednn.TARGET in step.func.as_text()
    after = driver.ask(source(20, 1), num_beams=3)
    driver.work()
    same(answers(before), alone(prepared, source(20, 1), num_beams=3))
    same(answers(across), alone(prepared, source(21, 2), num_beams=3, max_length=24, min_length=24))
    same(answers(after), answers(before))
    del prepared
    gc.collect()
    assert old() is None, "both layouts' weights are in memory"


@pytest.fixture(scope="module")
def spoiled(engine):
    """An engine whose weights are NaN. It uses the programs of the fixture `engine`, so that none is compiled."""
    spoiled = JaxEngine(model(math.nan), "sha256:nan", SHAPES)
    renamed = dict(zip(engine.buckets, spoiled.buckets, strict=True))
    for (kind, *key), executable in engine.store._executables.items():
        if isinstance(executable, partial):
            # This partial has bound the weights of `engine`.
            executable = partial(executable.func, spoiled._model.weights)
        spoiled.store._executables[kind, *(renamed.get(part, part) for part in key)] = executable
    spoiled.store.open = {bucket: bucket.sizes for bucket in spoiled.buckets}
    return spoiled


def test_weights_that_are_not_finite_are_noticed_before_the_model_is_served(spoiled):
    for bucket in spoiled.buckets:
        with pytest.raises(FloatingPointError, match=f"NaN in {bucket.name}"):
            spoiled.work(bucket).shapes(bucket, 1, [])[0].warm_up()


def test_nan_weights_are_a_fault_and_no_answer(spoiled):
    driver = SchedulerDriver(spoiled)
    boxes = [driver.ask(source(9, 1)), driver.ask(source(9, 1), num_beams=3), driver.ask(source(9, 1), do_sample=True)]
    driver.work()
    assert all(isinstance(box.error, DeviceFault) for box in boxes)


def test_a_device_fault_spares_later_requests(engine, prepared):
    driver = SchedulerDriver(engine)
    doomed = driver.ask(source(20, 1))
    key = ("step", doomed.job.bucket, 1)
    program = engine.store[key]

    def lost(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    engine.store._executables[key] = lost
    try:
        driver.work()
    finally:
        engine.store._executables[key] = program
    assert isinstance(doomed.error, DeviceFault)
    after = driver.ask(source(20, 1))
    driver.work()
    same(answers(after), alone(prepared, source(20, 1)))


@pytest.mark.parametrize(
    ("ids", "options", "field", "description"),
    [
        ([], {}, "token_ids", "0 tokens, between 1 and 24"),
        ([3] * 25, {}, "token_ids", "25 tokens, between 1 and 24"),
        ([97], {}, "token_ids", "holds 97, the vocabulary ends at 96"),
        ([3], {"num_beams": 2}, "options.num_beams", "2 is not one of the compiled widths [1, 3]"),
        ([3], {"num_beams": 3, "do_sample": True}, "options.num_beams", "3 is not one of the compiled sampling widths"),
        ([3], {"max_length": 25}, "options.max_length", "25"),
        ([3], {"max_new_tokens": 0}, "options.max_new_tokens", "at least 1"),
        ([3], {"temperature": 0.0, "do_sample": True}, "options.temperature", "got 0.0"),
        ([3], {"suppress_tokens": [97]}, "options.suppress_tokens", "between 0 and 96"),
        ([3], {"suppress_tokens": [3] * 257}, "options.suppress_tokens", "at most 256"),
        ([3], {"num_return_sequences": 2}, "options.num_return_sequences", "1 in a greedy search"),
        (
            [3],
            {"num_return_sequences": 10**9, "do_sample": True},
            "options.num_return_sequences",
            "1000000000 samples, at most 3 run at once",
        ),
        ([3], {"length_penalty": 1e308, "num_beams": 3}, "options.length_penalty", "1e+308"),
        ([3], {"sequence_bias": {(3,): 1e308}}, "options.sequence_bias", "between -1e+09 and 1e+09"),
        (
            [3],
            {"exponential_decay_length_penalty": (3, 1e308)},
            "options.exponential_decay_length_penalty",
            "at most 1e+06",
        ),
    ],
)
def test_bad_input_is_refused_before_the_device_by_name(engine, ids, options, field, description):
    with pytest.raises(InvalidArgument) as error:
        engine.requests(Generate(ids, options))
    assert error.value.field == field
    assert description in error.value.description


NUMBERS = st.one_of(st.integers(0, 30), st.floats(allow_nan=False, allow_infinity=False))
VALUES = {
    "num_beams": st.integers(0, 4),
    "do_sample": st.booleans(),
    "max_new_tokens": st.integers(0, 30),
    "min_length": st.integers(0, 40),
    "length_penalty": NUMBERS,
    "repetition_penalty": NUMBERS,
    "encoder_repetition_penalty": NUMBERS,
    "temperature": NUMBERS,
    "top_p": NUMBERS,
    "no_repeat_ngram_size": st.integers(0, 100),
    "bad_words_ids": st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=10), max_size=4),
    "forced_bos_token_id": st.one_of(st.none(), st.integers(0, 100)),
    "eos_token_id": st.one_of(st.none(), st.lists(st.integers(0, 100), min_size=1, max_size=5)),
    "exponential_decay_length_penalty": st.tuples(st.integers(0, 100), NUMBERS),
    "early_stopping": st.sampled_from([True, False, "never"]),
    "seed": st.integers(0, 2**33),
}
# At most three options at once: with more, nearly every request would be refused for one of them.
OPTIONS = st.lists(st.sampled_from(sorted(VALUES)), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: VALUES[name] for name in names})
)


def test_any_options_are_refused_by_name_or_answered(engine, prepared):
    """An answer is that of `generate`, and a refusal names an option.

    Ten of the sets that are drawn must be answered.
    """
    answered = []

    @settings(max_examples=60, deadline=None)
    @given(options=OPTIONS)
    def check(options):
        driver = SchedulerDriver(engine, chunk=24)
        try:
            box = driver.ask(source(17, 1), **options)
        except InvalidArgument as error:
            assert error.field.removeprefix("options.") in options, options
            return
        driver.work()
        assert all(np.isfinite(score) for _, score in answers(box)), options
        if not options.get("do_sample") or "seed" in options:
            same(answers(box), alone(prepared, source(17, 1), **options))
        answered.append(options)

    check()
    assert len(answered) >= 10, "too few of the options that were drawn are allowed"


# ── scores ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_scores_in_batches_beside_generation_are_those_of_score_alone(engine, prepared):
    driver = SchedulerDriver(engine)
    generating = driver.ask(source(20, 1), max_length=24)
    targets = [[5, 6, 7, 2], [9], [-100, 4, -100, 2], [11] * 24, [-100, -100]]
    sources = [source(17 + index, index) for index in range(5)]
    boxes = []
    for ids, labels in zip(sources, targets, strict=True):
        boxes += driver.put(Score(ids, labels))
    driver.work()
    same(answers(generating), alone(prepared, source(20, 1), max_length=24))
    for ids, labels, box in zip(sources, targets, boxes, strict=True):
        expected = score(prepared, [ids], None, [labels])[0].tolist()
        assert list(box.finish.values) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert all(value == 0 for value, label in zip(box.finish.values, labels, strict=True) if label == -100)


@pytest.mark.parametrize(
    ("ids", "labels", "field", "description"),
    [
        ([3] * 25, [2], "token_ids", "25 tokens, between 1 and 24"),
        ([3], [], "labels", "0 tokens, between 1 and 24"),
        ([3], [3] * 25, "labels", "25 tokens, between 1 and 24"),
        ([3], [5, 97], "labels", "holds 97"),
        ([3], [5, -1], "labels", "holds -1, which is neither between 0 and 96 nor -100"),
    ],
)
def test_bad_targets_are_refused_before_the_device_by_name(engine, ids, labels, field, description):
    with pytest.raises(InvalidArgument) as error:
        engine.requests(Score(ids, labels))
    assert error.value.field == field
    assert description in error.value.description


# ── classification ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def classifier():
    keys = jax.random.split(jax.random.key(6), 2)
    head = {
        "dense": {"weight": jax.random.normal(keys[0], (32, 32)) / 4, "bias": np.zeros(32, np.float32)},
        "out_proj": {"weight": jax.random.normal(keys[1], (32, 3)), "bias": np.zeros(3, np.float32)},
    }
    params = {**init(CONFIG, jax.random.key(5)), "classification_head": head}
    labels = ("contradiction", "neutral", "entailment")
    return prepare(Model(params, CONFIG, GENERATION, None, labels))


def test_classifications_in_batches_are_those_of_classify_alone(classifier):
    engine = JaxEngine(classifier, "sha256:nli", SHAPES)
    engine.compile(lambda: False)
    assert engine.description.tasks == (Classify,)
    driver = SchedulerDriver(engine)
    sources = [source(17 + index, index) for index in range(5)]
    boxes = [box for ids in sources for box in driver.put(Classify(ids))]
    driver.work()
    for ids, box in zip(sources, boxes, strict=True):
        contradiction, _, entailment = classify(classifier, [ids])[0]
        assert box.finish.values == pytest.approx((contradiction, entailment), abs=1e-4)
