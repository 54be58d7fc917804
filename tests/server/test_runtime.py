"""The runtime in this process, without a transport: it starts, replaces models under load, and drains."""

import asyncio
import dataclasses
import gc
import inspect
import logging
import threading
import typing
import weakref

import pytest
from bart_proto.v1 import bart_pb2 as pb
from bart_server import Call, Runtime, Settings
from bart_server.scheduling.errors import InvalidArgument, Unavailable, UnknownModel
from bart_server.scheduling.tasks import Classify, Generate, Score
from bart_server.services.methods import METHODS

from support.echo import FakeEngine
from support.tokenizer import byte_tokenizer
from tests.server.harness import PATIENCE, Gate

SETTINGS = Settings(model=("echo=first",), chunk=4, workers=2, tokenizer_threads=1, grace=PATIENCE)


class Revisions:
    """A `load` for Runtime. engines: the fake engine of each path, or the error that loading it raises.

    A path that has neither gets a new engine when it is first loaded.
    """

    def __init__(self, **engines):
        self.engines = engines

    def __call__(self, settings, path):
        engine = self.engines.setdefault(path, FakeEngine(revision=path))
        if isinstance(engine, Exception):
            raise engine
        return engine, byte_tokenizer()


async def within(awaitable):
    return await asyncio.wait_for(awaitable, PATIENCE)


async def until(holds):
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.005)


def request(text="hello", **fields):
    return pb.SummarizeRequest(text=text, **fields)


def test_it_answers_as_a_context_and_counts_its_calls():
    async def main():
        async with Runtime(SETTINGS, Revisions()) as runtime:
            answer = await within(runtime.summarize(request(options={"num_beams": 3})))
            assert (answer.text, answer.usage.model_revision) == ("hello", "first")
            stream = runtime.stream_summarize(pb.StreamSummarizeRequest(text="hello there"))
            *deltas, last = [message async for message in stream]
            assert "".join(message.delta.text for message in deltas) == last.summary.text == "hello there"
            with pytest.raises(InvalidArgument, match="num_beams"):
                await runtime.summarize(request(options={"num_beams": 2}))
            call = Call(timeout=PATIENCE)
            await runtime.generate(pb.GenerateRequest(text="abc"), call)
            assert call.facts["output_tokens"] == 4
        counted = runtime.metrics.registry.get_sample_value
        method = "/bart.v1.SummarizationService/Summarize"
        assert counted("bart_calls_total", {"method": method, "code": "OK"}) == 1
        assert counted("bart_calls_total", {"method": method, "code": "INVALID_ARGUMENT"}) == 1

    asyncio.run(main())


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.short_name)
def test_every_method_of_the_contract_is_one_of_the_runtime(method):
    function = getattr(Runtime, method.function)
    assert inspect.iscoroutinefunction(function) is not method.streams
    assert typing.get_type_hints(function)["request"] is method.request


def test_the_end_of_the_context_waits_for_calls_in_flight_and_refuses_new_ones():
    gate = Gate("step")
    threads = threading.active_count()

    async def main():
        async with Runtime(SETTINGS, Revisions(first=FakeEngine(on_call=gate))) as runtime:
            running = asyncio.create_task(runtime.summarize(request()))
            await asyncio.to_thread(gate.wait)
            asyncio.get_running_loop().call_later(0.1, gate.open)
        assert (await within(running)).text == "hello"
        with pytest.raises(Unavailable):
            await runtime.summarize(request())
        assert not runtime.busy()

    asyncio.run(main())
    assert threading.active_count() <= threads + 1  # asyncio.to_thread may keep a thread


def test_a_model_that_cannot_be_loaded_ends_the_start():
    async def main():
        runtime = Runtime(SETTINGS, Revisions(first=ValueError("header too large")))
        with pytest.raises(ValueError, match="header too large"):
            async with runtime:
                raise AssertionError("it has begun")
        with pytest.raises(Unavailable):
            await runtime.summarize(request())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("tasks", "usable"),
    [
        ((Generate, Score), "Generate and StreamGenerate with token_ids, Score with token_ids and labels"),
        ((Classify,), "nothing"),
    ],
)
def test_without_a_tokenizer_a_start_warns_and_says_what_it_can_serve(caplog, tasks, usable):
    ids = pb.TokenIds(ids=[0, 70, 2])

    async def main():
        async with Runtime(SETTINGS, lambda settings, path: (FakeEngine(tasks=tasks), None)) as runtime:
            if Generate in tasks:
                generated = await within(runtime.generate(pb.GenerateRequest(token_ids=ids)))
                assert list(generated.sequences[0].token_ids) == [70, 2]
                scored = await within(runtime.score(pb.ScoreRequest(token_ids=ids, labels=pb.Labels(ids=[5, 2]))))
                assert list(scored.log_probs) == [-5.0, -2.0]
                refused = runtime.summarize(request())
            else:
                refused = runtime.classify_zero_shot(pb.ClassifyZeroShotRequest(text="a", labels=["b"]))
            with pytest.raises(InvalidArgument, match=f"text: model 'echo' has no tokenizer; it can serve: {usable}"):
                await within(refused)

    asyncio.run(main())
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"the checkpoint has no tokenizer; it can serve: {usable}"]


# ── replacement ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_calls_in_flight_end_on_the_old_revision_and_new_ones_go_to_the_new_one():
    gate = Gate("step")
    old, new = FakeEngine(revision="first", on_call=gate), FakeEngine(revision="second")
    settings = dataclasses.replace(SETTINGS, workers=3)  # two of them wait at the gate

    async def main():
        async with Runtime(settings, Revisions(first=old, second=new)) as runtime:
            running = asyncio.create_task(runtime.summarize(request()))
            streaming = asyncio.create_task(collect(runtime, "hello there"))
            await asyncio.to_thread(gate.wait)
            replaced = asyncio.create_task(runtime.replace("echo", "second"))
            await until(lambda: runtime.revisions() == {"echo": "second"})
            for _ in range(3):
                assert (await within(runtime.summarize(request()))).usage.model_revision == "second"
            models = (await runtime.list_models(pb.ListModelsRequest())).models
            assert [model.revision for model in models] == ["second"]
            assert not replaced.done() and not running.done() and runtime.scheduler.serves(old)
            gate.open()
            assert (await within(running)).usage.model_revision == "first"
            last = (await within(streaming))[-1].summary
            assert (last.text, last.usage.model_revision) == ("hello there", "first")
            await within(replaced)
            assert not runtime.scheduler.serves(old) and runtime.scheduler.serves(new)

    asyncio.run(main())


async def collect(runtime, text):
    return [message async for message in runtime.stream_summarize(pb.StreamSummarizeRequest(text=text))]


def test_a_call_that_is_tokenized_while_its_model_is_replaced_ends_on_the_old_revision():
    async def main():
        async with Runtime(SETTINGS, Revisions()) as runtime:
            held = threading.Event()
            runtime._pool.submit(held.wait, PATIENCE)  # blocks the only tokenizer thread
            long = request("x" * 5_000, long_input="LONG_INPUT_TRUNCATE")
            running = asyncio.create_task(runtime.summarize(long))
            await asyncio.sleep(0)  # now the call has its places and waits for the thread
            replaced = asyncio.create_task(runtime.replace("echo", "second"))
            await until(lambda: runtime.revisions() == {"echo": "second"})
            assert (await within(runtime.summarize(request()))).usage.model_revision == "second"
            assert not replaced.done()
            held.set()
            assert (await within(running)).usage.model_revision == "first"
            await within(replaced)

    asyncio.run(main())


def test_no_call_fails_while_models_are_replaced_under_load():
    async def main():
        async with Runtime(SETTINGS, Revisions()) as runtime:
            ended, revisions = asyncio.Event(), []

            async def caller(index):
                while not ended.is_set():
                    text = chr(97 + index) * (1 + index)
                    if index % 2:
                        usage = (await runtime.summarize(request(text))).usage
                    else:
                        usage = (await collect(runtime, text))[-1].summary.usage
                    revisions.append(usage.model_revision)

            callers = [asyncio.create_task(caller(index)) for index in range(12)]
            names = [f"revision{number}" for number in range(8)]
            for name in names:
                before = len(revisions)
                await until(lambda before=before: len(revisions) > before + 12)
                await within(runtime.replace("echo", name))
            await until(lambda: revisions[-1] == names[-1])
            ended.set()
            await within(asyncio.gather(*callers))  # raises what a call has raised
            assert {"first", *names} <= set(revisions)
            assert runtime.scheduler.idle()

    asyncio.run(main())


def test_without_a_path_a_model_comes_from_where_it_came_before():
    paths = []

    def load(settings, path):
        paths.append(path)
        return FakeEngine(revision=f"{path}-{len(paths)}"), byte_tokenizer()

    async def main():
        async with Runtime(SETTINGS, load) as runtime:
            for path in (None, "second", None):
                await within(runtime.replace("echo", path))
            assert runtime.revisions() == {"echo": "second-4"}

    asyncio.run(main())
    assert paths == ["first", "first", "second", "second"]


def test_nothing_of_a_replaced_revision_is_left():
    engines = []

    def load(settings, path):
        engine = FakeEngine(revision=path)
        engines.append(weakref.ref(engine))
        return engine, byte_tokenizer()

    async def main():
        async with Runtime(SETTINGS, load) as runtime:
            for path in ("second", "third"):
                await within(asyncio.gather(*(runtime.summarize(request()) for _ in range(10))))
                await within(runtime.replace("echo", path))
            await within(runtime.summarize(request()))
            gc.collect()
            alive = [engine() is not None for engine in engines]
            assert alive == [False, False, True]

    asyncio.run(main())


def test_a_replacement_that_cannot_be_loaded_or_compiled_leaves_the_old_revision():
    class Closed(FakeEngine):
        def compile(self, stop, background=False):
            self.store.close(self.buckets[0])

    engines = Revisions(second=ValueError("header too large"), third=Closed())

    async def main():
        async with Runtime(SETTINGS, engines) as runtime:
            with pytest.raises(ValueError, match="header too large"):
                await within(runtime.replace("echo", "second"))
            with pytest.raises(RuntimeError, match="no program could be compiled for beams1-8"):
                await within(runtime.replace("echo", "third"))
            with pytest.raises(UnknownModel, match="'gpt' is not served"):
                await within(runtime.replace("gpt"))
            assert (await within(runtime.summarize(request()))).usage.model_revision == "first"

    asyncio.run(main())


def test_a_replacement_is_given_up_when_the_runtime_ends():
    gate = Gate("compile")

    async def main():
        runtime = Runtime(SETTINGS, Revisions(second=FakeEngine(priority=lambda bucket, size: 0, on_call=gate)))
        async with runtime:
            replaced = asyncio.create_task(runtime.replace("echo", "second"))
            await asyncio.to_thread(gate.wait)
        gate.open()
        with pytest.raises(Unavailable, match="ended"):
            await within(replaced)

    asyncio.run(main())
