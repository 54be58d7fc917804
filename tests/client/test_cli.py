"""The command bart-client, run as a process: its input, the order of its output, errors and exit status."""

import json
import subprocess
import sys

import pytest

from support.echo import FakeEngine
from tests.server.harness import PATIENCE


@pytest.fixture(scope="module")
def server():
    from tests.server.harness import Running

    running = Running(FakeEngine()).ready()
    yield running
    running.close()


def run(server, *arguments, stdin=""):
    return subprocess.run(
        [sys.executable, "-m", "bart_client", "--target", server.address, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_standard_input_is_one_text(server):
    ended = run(server, "summarize", "--beams", "3", stdin="hello there\n")
    assert (ended.stdout, ended.stderr, ended.returncode) == ("hello there\n", "", 0)


def test_files_are_one_text_each(server, tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(f"text {name}")
    ended = run(server, "summarize", str(tmp_path / "b"), str(tmp_path / "a"))
    assert ended.stdout == "text b\ntext a\n"


def test_json_lines_come_back_in_order_with_many_in_flight(server):
    records = [{"id": f"n{index}", "text": "x" * (1 + index * 37 % 60)} for index in range(100)]
    ended = run(server, "summarize", "--jsonl", "--concurrency", "16", stdin="\n".join(map(json.dumps, records)))
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(answer["id"], answer["text"]) for answer in answers] == [(r["id"], r["text"]) for r in records]
    assert answers[0]["usage"]["model"] == "echo" and ended.returncode == 0


def test_one_that_fails_leaves_the_others_alone_and_shows_in_the_exit_status(server):
    ended = run(server, "summarize", "--lines", stdin="one\n" + "x" * 99 + "\nthree\n")
    assert (ended.stdout, ended.returncode) == ("one\nthree\n", 1)
    assert ended.stderr.startswith("bart-client: 2: INVALID_ARGUMENT: text: 101 tokens")


def test_a_failed_record_keeps_its_place(server):
    records = [{"id": 1, "text": "x" * 99}, {"id": 2, "text": "fine"}]
    ended = run(server, "summarize", "--jsonl", stdin="\n".join(map(json.dumps, records)))
    first, second = map(json.loads, ended.stdout.splitlines())
    assert (first["id"], first["error"]["code"], second["text"]) == ("1", "INVALID_ARGUMENT", "fine")


def test_stream_and_options(server):
    ended = run(server, "summarize", "--stream", "-o", "max_new_tokens=4", stdin="hello")
    assert ended.stdout == "hell\n"


def test_classify_and_models(server):
    ended = run(server, "classify", "--label", "ab", "--label", "abc", "--multi-label", stdin="text")
    assert ended.stdout == "abc=1.0000\tab=1.0000\n"
    assert json.loads(run(server, "models").stdout)["limits"]["source_tokens"] == 64


def test_score_of_one_target_for_all_texts_or_of_each_records_own(server):
    ended = run(server, "score", "--target-text", "", "--lines", stdin="one\ntwo\n")
    assert (ended.stdout, ended.returncode) == ("-2.0000\n-2.0000\n", 0)
    records = [{"text": "one", "target": [5, -100, 2]}, {"text": "two", "target": ""}]
    ended = run(server, "score", "--jsonl", stdin="\n".join(map(json.dumps, records)))
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [answer["log_probs"] for answer in answers] == [[-5.0, 0.0, -2.0], [0.0, -2.0]]


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["summarize", "-o", "nonsense"], "", "is not NAME=JSON"),
        (["summarize", "-o", "nonsense=1"], "a", "unknown option 'nonsense'"),
        (["summarize", "/nonexistent"], "", "No such file"),
        (["summarize", "--jsonl"], "[1]\n", '-:1: not an object with "text"'),
        (["score"], "a", "give --target-text"),
        (["score", "--jsonl"], '{"text": "a", "target": 1}', "1: the target is 1"),
        (["nonsense"], "", "invalid choice"),
    ],
)
def test_wrong_usage_exits_with_2(server, arguments, stdin, message):
    ended = run(server, *arguments, stdin=stdin)
    assert ended.returncode == 2 and message in ended.stderr


def test_no_server_exits_with_3():
    class Nowhere:
        address = "127.0.0.1:1"

    assert run(Nowhere, "models").returncode == 3
