"""Calls every method of the protocol with the echo engine and without a transport, and prints the outcomes as JSON.

It runs in a process of its own, because the output also lists the imported packages, and using a network is an error.
"""

import asyncio
import contextlib
import json
import sys
import threading

from bart_proto.v1 import bart_pb2 as pb
from bart_server.runtime import Runtime
from bart_server.services.call import Call
from bart_server.services.methods import METHODS
from bart_server.services.status import code_of
from bart_server.settings import Settings

from support.echo import FakeEngine
from support.tokenizer import byte_tokenizer

REQUESTS = {
    "/bart.v1.SummarizationService/Summarize": pb.SummarizeRequest(text="hello"),
    "/bart.v1.SummarizationService/StreamSummarize": pb.StreamSummarizeRequest(text="hello there"),
    "/bart.v1.SummarizationService/BatchSummarize": pb.BatchSummarizeRequest(texts=["one", "two"]),
    "/bart.v1.GenerationService/Generate": pb.GenerateRequest(text="hello", options={"num_beams": 3}),
    "/bart.v1.GenerationService/StreamGenerate": pb.StreamGenerateRequest(text="hello there"),
    "/bart.v1.GenerationService/Score": pb.ScoreRequest(text="hello", target_text="there"),
    "/bart.v1.ClassificationService/ClassifyZeroShot": pb.ClassifyZeroShotRequest(
        text="t", labels=["ab", "abc"], hypothesis_template="A {}."
    ),
    "/bart.v1.ModelService/ListModels": pb.ListModelsRequest(),
    "/bart.v1.ModelService/GetModel": pb.GetModelRequest(),
}
PATIENCE = 20.0  # seconds
CHUNK = 4


class Device:
    """The echo engine's `on_call`.

    While it is closed, it lets `passes` computations pass and then stops the next one.
    """

    def __init__(self):
        self.open = threading.Event()
        self.open.set()
        self.held = threading.Event()
        self.passes = 0

    def __call__(self, verb, requests):
        if verb not in ("step", "run") or self.open.is_set():
            return
        if self.passes:
            self.passes -= 1
            return
        self.held.set()
        assert self.open.wait(PATIENCE)

    @contextlib.contextmanager
    def closed(self, passes=0):
        self.passes = passes
        self.held.clear()
        self.open.clear()
        try:
            yield
        finally:
            self.open.set()


class Host:
    """A runtime over the echo engine with one worker."""

    def __init__(self):
        self.device = Device()
        self.engine = FakeEngine(on_call=self.device)
        settings = Settings(model=("echo=echo",), chunk=CHUNK, workers=1)
        self.runtime = Runtime(settings, lambda settings, path: (self.engine, byte_tokenizer()))

    async def messages(self, name, call):
        """All messages of the answer to a call of the method `name`."""
        answer = self.runtime.call(name, REQUESTS[name], call)
        if METHODS[name].streams:
            return [message async for message in answer]
        return [await answer]

    async def ended(self, name, call):
        """The status code with which a call of the method `name` ends."""
        try:
            await self.messages(name, call)
        except Exception as error:
            return code_of(error)
        return "OK"

    async def held(self):
        """Waits until the device holds a call."""
        await asyncio.wait_for(asyncio.to_thread(self.device.held.wait), PATIENCE)

    async def idle(self):
        """Whether every place is free within two seconds."""
        for _ in range(200):
            if self.runtime.scheduler.idle():
                return True
            await asyncio.sleep(0.01)
        return False


async def while_held(host, name):
    """Cancels a call, cancels its task, and lets one expire, each while the device is busy.

    Returns the status codes, and whether the places are free afterwards.
    """
    outcomes = {}
    with host.device.closed():
        running = asyncio.create_task(host.ended(name, call := Call()))
        await host.held()
        call.cancel()
        outcomes["cancelled while the device is busy"] = await running
        outcomes["its places are free"] = await host.idle()
    with host.device.closed():
        running = asyncio.create_task(host.ended(name, Call()))
        await host.held()
        running.cancel()
        [outcome] = await asyncio.gather(running, return_exceptions=True)
        outcomes["its task is cancelled"] = type(outcome).__name__
        outcomes["places are free after the task"] = await host.idle()
    with host.device.closed():
        outcomes["expired while the device is busy"] = await host.ended(name, Call(timeout=0.1))
        outcomes["places are free after the deadline"] = await host.idle()
    return outcomes


async def while_suspended(host, name):
    """Cancels, closes or lets expire a stream whose reader has taken one message and does not ask for the next.

    Returns the status codes, and whether the places are free afterwards.
    """
    outcomes = {}
    for ending in ("cancelled", "expired", "closed"):
        call = Call(timeout=0.5 if ending == "expired" else None)
        with host.device.closed(passes=1):
            stream = host.runtime.call(name, REQUESTS[name], call)
            outcomes[f"first piece before it is {ending}"] = (await anext(stream)).delta.text
            await host.held()
            if ending == "cancelled":
                call.cancel()
            if ending == "closed":
                await stream.aclose()
            outcomes[f"places are free after it is {ending}"] = await host.idle()
            try:
                await anext(stream)
            except StopAsyncIteration:
                outcomes[f"a suspended stream that is {ending}"] = "no more"
            except Exception as error:
                outcomes[f"a suspended stream that is {ending}"] = code_of(error)
    return outcomes


async def drive(host, name):
    """The outcomes of a method's calls: answered, ended before they begin, and ended while they are in progress."""
    answers = await host.messages(name, Call(timeout=PATIENCE))
    calls, cancelled = list(host.engine.calls), Call()
    cancelled.cancel()
    outcomes = {
        "answer": [timeless(message).SerializeToString(deterministic=True).hex() for message in answers],
        "cancelled before": await host.ended(name, cancelled),
        "expired before": await host.ended(name, Call(timeout=0.0)),
        "the device was asked": host.engine.calls != calls,
    }
    if not name.startswith("/bart.v1.ModelService/"):
        outcomes |= await while_held(host, name)
    if METHODS[name].streams:
        outcomes |= await while_suspended(host, name)
    return outcomes


async def main():
    report = {}
    for name in METHODS:
        host = Host()
        async with host.runtime:
            report[name] = await drive(host, name)
    return report


def timeless(message):
    """The message without the times in it, which differ from call to call."""
    for field, value in message.ListFields():
        if field.name in ("queue_time", "compute_time"):
            message.ClearField(field.name)
        elif field.message_type:
            for part in value if field.is_repeated else [value]:
                timeless(part)
    return message


def no_network(event, arguments):
    """An audit hook that raises when a socket is used."""
    if event in ("socket.bind", "socket.connect"):
        raise RuntimeError(f"{event} {arguments}")


if __name__ == "__main__":
    sys.addaudithook(no_network)
    report = asyncio.run(main())
    report["imported"] = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps(report))
