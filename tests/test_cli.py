"""Tests the command line in separate processes with the embedded checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bart_inference import load, summarize
from bart_inference.checkpoint import embedded
from bart_inference.model import onednn
from peft import LoraConfig, get_peft_model
from transformers import BartForConditionalGeneration

ROOT = Path(__file__).resolve().parents[1]
TEXT = json.loads((embedded() / "examples.jsonl").read_text().splitlines()[0])["document"]
ANOTHER = json.loads((embedded() / "examples.jsonl").read_text().splitlines()[1])["document"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """The compile cache that the commands of this module share, instead of the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    CACHE.append(str(folder))
    return folder


CACHE: list[str] = []


def run(*arguments: str, stdin: str = "", fails: bool = False, home: Path | None = None) -> subprocess.CompletedProcess:
    """Runs `python bart_oneliner.py` with arguments, offline; it must succeed, or fail if `fails`."""
    if "--compile-cache" not in arguments:
        arguments = ("--compile-cache", CACHE[-1], *arguments)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "inference")))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    if home:
        environment["HOME"] = str(home)
    command = [sys.executable, str(ROOT / "bart_oneliner.py"), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, cwd="/", timeout=300)
    assert (done.returncode != 0) == fails, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def model():
    return load()


def test_without_arguments_it_summarizes_the_bundled_documents(model):
    output = run().stdout
    for line in (embedded() / "examples.jsonl").read_text().splitlines():
        example = json.loads(line)
        assert example["summary"] in output, f"the reference of {example['package']} is not shown"
        assert f"→ {summarize(model, example['document'])}\n" in output, f"{example['package']} has another summary"
    assert "debian-tiny" in output and " s, compilation included" in output


def test_files_are_summarized_in_their_order_as_json(model, tmp_path):
    for name, text in (("one", TEXT), ("two", ANOTHER)):
        (tmp_path / name).write_text(text)
    lines = run("--json", "-f", str(tmp_path / "one"), str(tmp_path / "two")).stdout.splitlines()
    assert [json.loads(line)["summary"] for line in lines] == summarize(model, [TEXT, ANOTHER])


def test_stream_prints_the_same_summary_as_a_whole_answer(model):
    assert run("--stream", "-", stdin=TEXT).stdout == summarize(model, TEXT) + "\n"


def test_the_one_line_gives_the_summary_of_cached_greedy_search(model):
    plain = summarize(model, TEXT, num_beams=1, max_new_tokens=12, no_repeat_ngram_size=None, repetition_penalty=None)
    assert run("--one-line", "--max-new-tokens", "12", TEXT).stdout == plain + "\n"


def test_int8_gives_the_summary_of_int8(tmp_path):
    """Programs that call oneDNN cannot be stored, so the compile cache stays unused where jaxlib has oneDNN."""
    done = run("--dtype", "int8", "--compile-cache", str(tmp_path), TEXT)
    assert done.stdout == summarize(load(dtype="int8"), TEXT) + "\n"
    assert not (onednn.available("int8") and list(tmp_path.iterdir()))


def test_an_adapter_is_merged(model, tmp_path):
    torch.manual_seed(0)  # with some seeds the random adapter does not change the summary
    base = BartForConditionalGeneration.from_pretrained(embedded())
    adapter = get_peft_model(base, LoraConfig(target_modules=["q_proj", "fc1"], init_lora_weights=False))
    adapter.save_pretrained(tmp_path)
    expected = summarize(load(adapter=tmp_path), TEXT)
    assert expected != summarize(model, TEXT)
    assert run("--adapter", str(tmp_path), TEXT).stdout == expected + "\n"


def test_a_text_that_is_too_long_is_cut_with_a_notice():
    done = run("-", stdin="lorem ipsum dolor " * 400)
    assert "the model reads 512: the rest is cut" in done.stderr and done.stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--num-beams", "0", "text"], "num_beams must be an integer of at least 1, got 0"),
        (["--max-new-tokens", "9999", "text"], "max_new_tokens asks for 10000 tokens, the position table has 512"),
        (["--model", "/nonexistent", "text"], "/nonexistent: no such folder"),
        (["-f", "/nonexistent"], "No such file or directory: '/nonexistent'"),
        (["  "], "texts[0] is empty"),
        (["--stream", "--json", "text"], "--stream excludes --json"),
        (["--one-line", "--num-beams", "4", "text"], "--one-line is a greedy search"),
        (["--one-line", "--dtype", "int8", "text"], "--one-line computes in float32, --dtype int8 does not"),
        (["--dtype", "float16", "text"], "invalid choice: 'float16' (choose from"),
    ],
)
def test_bad_input_is_one_clear_line_and_a_failing_status(arguments, complaint):
    done = run(*arguments, fails=True)
    assert complaint in done.stderr and "Traceback" not in done.stderr


def test_the_second_run_compiles_nothing(model, cache):
    first = run(TEXT).stdout
    programs = {path.name for path in cache.glob("*-cache")}
    assert programs and run(TEXT).stdout == first == summarize(model, TEXT) + "\n"
    assert {path.name for path in cache.glob("*-cache")} == programs, "the second run stored further programs"


def test_a_damaged_compile_cache_is_one_line(model, tmp_path):
    run("--compile-cache", str(tmp_path), TEXT)
    for path in tmp_path.glob("*-cache"):
        path.write_bytes(b"garbage")
    done = run("--compile-cache", str(tmp_path), TEXT)
    assert done.stdout == summarize(model, TEXT) + "\n"
    [line] = done.stderr.splitlines()
    assert "Error reading persistent compilation cache" in line


def test_a_compile_cache_that_cannot_be_written_is_one_line(model, tmp_path):
    (tmp_path / "file").write_text("")
    done = run("--compile-cache", str(tmp_path / "file"), TEXT)
    assert done.stdout == summarize(model, TEXT) + "\n"
    [line] = done.stderr.splitlines()
    assert "compile cache cannot be used" in line and str(tmp_path / "file") in line


def test_without_a_compile_cache_nothing_is_written(model, tmp_path):
    done = run("--compile-cache", "off", TEXT, home=tmp_path)
    assert done.stdout == summarize(model, TEXT) + "\n" and not done.stderr
    assert list(tmp_path.iterdir()) == []
