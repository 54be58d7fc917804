"""`python -m bart_server` as operators start it, with the real engine and a small random checkpoint."""

import asyncio
import gc
import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import weakref

import jax
import numpy as np
import pytest
from bart_client import Client
from bart_inference import CheckpointError, Model, generate, load, save, score
from bart_proto.v1 import bart_pb2 as pb
from bart_server.engine import load as engine_load
from bart_server.runtime import Runtime
from bart_server.settings import Settings
from peft import LoraConfig, get_peft_model
from transformers import BartForConditionalGeneration

from bart_oneliner import init
from support.tokenizer import byte_tokenizer
from tests.server.test_engine import CONFIG, GENERATION

SMALL = ["--beams", "1", "--sampling-beams", "", "--sources", "24", "--target", "24", "--rows", "1"]
LIMIT = 300.0  # seconds that a server may take to start or end; it takes a few, but more on a busy machine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    config = CONFIG.__class__(**{**vars(CONFIG), "vocab_size": 260})
    save(Model(init(config, jax.random.key(5)), config, GENERATION, byte_tokenizer()), folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


class Server:
    def __init__(self, checkpoint, *flags):
        arguments = ["--model", f"small={checkpoint}", "--port", "0", "--metrics", "off", *SMALL, *flags]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bart_server", *arguments],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []

    def until(self, message):
        for line in self.process.stderr:
            if line.startswith("{"):
                self.log.append(json.loads(line))
                if self.log[-1]["message"].startswith(message):
                    return self.log[-1]
        raise AssertionError(f"ended before {message!r}: {self.log}")

    def warnings(self):
        """The messages of warnings and errors up to where the log has been read."""
        return [line["message"] for line in self.log if line["level"] in ("warning", "error")]

    def end(self):
        try:
            self.process.send_signal(signal.SIGTERM)
            self.process.communicate(timeout=LIMIT)
            return self.process.returncode
        finally:
            self.process.kill()


def check_it_serves(server, checkpoint, adapter=None):
    """Checks that answers over gRPC are those of `generate` and `score`, and that the server then drains."""
    try:
        address = server.until("listening")["address"].replace("localhost", "127.0.0.1")
        ready = server.until("ready")
        assert ready["models"]["small"].startswith("sha256:")
        assert ready["layouts"] == {"small": "XLA"}
        if hasattr(os, "SCHED_BATCH"):
            policy = os.sched_getscheduler(server.process.pid)  # of the event loop's thread
            assert policy == os.SCHED_BATCH, "on Linux an arriving call must not interrupt the computation"
        with Client(address, timeout=LIMIT) as client:
            summary = client.summarize("Hello, world.")
            alone = generate(load(checkpoint, adapter=adapter), [byte_tokenizer().encode("Hello, world.").ids])
            assert list(summary.windows[0].summary.token_ids) == alone.sequences[0][1 : alone.lengths[0]].tolist()
            assert summary.windows[0].summary.score == pytest.approx(float(alone.sequences_scores[0]), rel=1e-4)
            source, labels = byte_tokenizer().encode("Hello, world.").ids, [0, 70, -100, 71, 2]
            scored = client.score("Hello, world.", labels)
            expected = score(load(checkpoint, adapter=adapter), [source], None, [labels])[0].tolist()
            assert list(scored.log_probs) == pytest.approx(expected, rel=1e-4, abs=1e-5)
            assert scored.labels == tuple(labels) and scored.log_probs[2] == 0
    finally:
        status = server.end()
    assert status == 0


def test_it_serves_the_tokens_of_generate_and_drains(checkpoint, cache):
    check_it_serves(Server(checkpoint, "--compile-cache", str(cache)), checkpoint)
    assert any(cache.iterdir())


def test_an_adapter_is_merged(checkpoint, cache, tmp_path):
    base = BartForConditionalGeneration.from_pretrained(checkpoint)
    get_peft_model(base, LoraConfig(target_modules=["fc1"], init_lora_weights=False)).save_pretrained(tmp_path)
    server = Server(checkpoint, "--adapter", f"small={tmp_path}", "--compile-cache", str(cache))
    check_it_serves(server, checkpoint, adapter=tmp_path)


def test_a_server_starts_with_a_corrupt_compile_cache(checkpoint, cache):
    if not any(cache.iterdir()):
        check_it_serves(Server(checkpoint, "--compile-cache", str(cache)), checkpoint)
    files = list(cache.iterdir())
    assert files, "a start filled the cache"
    for path in files:
        path.write_bytes(b"garbage")
    server = Server(checkpoint, "--compile-cache", str(cache))
    check_it_serves(server, checkpoint)
    [line] = server.warnings()
    assert "damaged entry of the compile cache" in line


def test_a_server_starts_with_a_compile_cache_that_cannot_be_written(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    server = Server(checkpoint, "--compile-cache", str(tmp_path / "file"))
    check_it_serves(server, checkpoint)
    assert all("compile cache cannot be" in line for line in server.warnings())
    assert len(server.warnings()) == len(set(server.warnings())) in (1, 2), "one line each for reading and writing"


def test_a_missing_platform_ends_the_process_and_is_not_replaced(checkpoint):
    server = Server(checkpoint, "--platform", "cuda")
    assert "cuda" in server.until("not loaded")["message"]
    assert server.process.wait(LIMIT) == 3


def test_a_runtime_in_this_process_replaces_one_checkpoint_by_another(checkpoint, cache, tmp_path):
    """Each revision gives the tokens of its own checkpoint, and nothing of the old one stays in memory."""
    other = load(checkpoint)
    save(Model(init(other.config, jax.random.key(6)), other.config, GENERATION, byte_tokenizer()), tmp_path)
    settings = Settings(
        model=(f"small={checkpoint}",),
        beams=(1,),
        sampling_beams=(),
        sources=(24,),
        target=24,
        rows=(1,),
        compile_cache=str(cache),
    )

    async def summarized(runtime, path):
        answer = await runtime.summarize(pb.SummarizeRequest(text="Hello, world."))
        alone = generate(load(path), [byte_tokenizer().encode("Hello, world.").ids])
        assert list(answer.windows[0].summary.token_ids) == alone.sequences[0][1 : alone.lengths[0]].tolist()
        return answer.usage.model_revision

    async def main():
        async with Runtime(settings) as runtime:
            old = weakref.ref(runtime.models.find("small").engine)
            before = await summarized(runtime, checkpoint)
            await runtime.replace("small", str(tmp_path))
            assert await summarized(runtime, tmp_path) != before
            gc.collect()
            assert old() is None, "the old revision's weights are still in memory"

    asyncio.run(main())


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86-64 has oneDNN")
@pytest.mark.parametrize(
    ("available", "compile_cache", "layout"),
    [(True, "off", "oneDNN panels"), (True, "folder", "XLA, then oneDNN panels"), (False, "folder", "XLA")],
)
def test_the_layout_of_large_weights_is_told_and_a_missing_onednn_is_a_warning(
    checkpoint, monkeypatch, caplog, tmp_path, available, compile_cache, layout
):
    monkeypatch.setattr("bart_inference.model.layout.MIN_BYTES_FOR_ONEDNN", 0)
    if not available:
        monkeypatch.setattr("bart_inference.model.onednn.available", lambda *_: False)
    with caplog.at_level(logging.WARNING, "bart_server"):
        if compile_cache != "off":
            compile_cache = str(tmp_path)
        settings = Settings(sources=(24,), target=24, compile_cache=compile_cache)
        engine, _ = engine_load.load(settings, str(checkpoint))
    assert engine.description.layout == layout
    warnings = [record.getMessage() for record in caplog.records if "oneDNN" in record.getMessage()]
    assert len(warnings) == (0 if available else 1), caplog.text


def test_small_weights_have_xlas_layout_without_a_warning(checkpoint, monkeypatch, caplog):
    monkeypatch.setattr("bart_inference.model.onednn.available", lambda *_: False)
    engine, _ = engine_load.load(Settings(sources=(24,), target=24, compile_cache="off"), str(checkpoint))
    assert engine.description.layout == "XLA"
    assert "oneDNN" not in caplog.text


@pytest.fixture
def damaged(checkpoint, tmp_path):
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("damage", ["cut", "gone", "config"])
def test_a_damaged_checkpoint_is_named(damaged, damage):
    weights = damaged / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "gone":
        weights.unlink()
    else:
        (damaged / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=re.escape(str(damaged))):
        engine_load.load(Settings(), str(damaged))


def test_a_damaged_checkpoint_ends_the_process_with_status_3(damaged):
    (damaged / "model.safetensors").write_bytes(np.random.default_rng(0).bytes(1000))
    server = Server(damaged, "--compile-cache", "off")
    assert "model.safetensors" in server.until("not loaded")["message"]
    assert server.process.wait(LIMIT) == 3
