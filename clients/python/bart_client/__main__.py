"""`bart-client`, or `python -m bart_client`: summaries, labels and models from the command line.

Exit status: 0 all answered, 1 some items failed, 2 wrong usage, 3 no server could be reached, 130 interrupted.
"""

import argparse
import asyncio
import collections
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import grpc
from google.protobuf import json_format

from bart_client import AsyncClient, BartError, Security

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


class Item(NamedTuple):
    """One text of the input. name: its file, line number or "id", for messages. target: what `score` is asked about."""

    name: str
    text: str
    target: str | list[int] | None = None


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser()
    given = parser.parse_args(arguments)
    try:
        sys.exit(asyncio.run(run(given)))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (OSError, ValueError, TypeError) as error:
        parser.exit(USAGE, f"bart-client: {error}\n")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bart-client", description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument(
        "--target", default=os.environ.get("BART_TARGET", "localhost:50051"), help="HOST:PORT [$BART_TARGET]"
    )
    parser.add_argument("--model", default="", help="name of the model; the server's first if not given")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each item, retries included")
    parser.add_argument("--tls", action="store_true", help="use TLS, trusting the system's authorities")
    parser.add_argument("--ca", help="PEM file of the authorities to trust")
    parser.add_argument("--cert", help="PEM file of a client certificate")
    parser.add_argument("--key", help="PEM file of its key")
    parser.add_argument("--token-file", help="file with a bearer token [or $BART_TOKEN]")
    commands = parser.add_subparsers(dest="command", required=True)

    summarize = commands.add_parser("summarize", help="summarize files, standard input or JSON lines")
    add_input(summarize)
    summarize.add_argument("--long-input", choices=["error", "truncate", "chunk"], default="error")
    summarize.add_argument("--beams", type=int, dest="num_beams", help="beam width")
    summarize.add_argument(
        "-o", "--option", action="append", default=[], metavar="NAME=JSON", help="any other option of generation"
    )
    summarize.add_argument("--stream", action="store_true", help="print each text as it is made, one after the other")

    classify = commands.add_parser("classify", help="score labels by a natural language inference model")
    add_input(classify)
    classify.add_argument("--label", action="append", required=True, help="a label; give it several times")
    classify.add_argument("--template", default="", help='holds one "{}"; "This example is {}." if not given')
    classify.add_argument("--multi-label", action="store_true", help="judge each label by itself")

    score = commands.add_parser(
        "score", help="how likely a target is, given a text: its log-probability", allow_abbrev=False
    )
    add_input(score)
    score.add_argument("--target-text", help='the target; with --jsonl, of records without a "target" of their own')
    score.add_argument("--long-input", choices=["error", "truncate"], default="error")

    commands.add_parser("models", help="list the models and their limits as JSON")
    return parser


def add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", default=["-"], help="one text each; - is standard input")
    parser.add_argument("--lines", action="store_true", help="each line is a text")
    parser.add_argument("--jsonl", action="store_true", help='each line is an object with "text", and perhaps "id"')
    parser.add_argument("--json", action="store_true", help="print JSON lines with scores, counts and times")
    parser.add_argument("--concurrency", type=int, default=8, help="texts sent at a time")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


async def run(given: argparse.Namespace) -> int:
    async with connect(given) as client:
        try:
            if given.command == "models":
                for model in await client.models():
                    print(json.dumps(json_format.MessageToDict(model, preserving_proto_field_name=True)))
                return 0
            if given.command == "summarize" and given.stream:
                return await stream(client, given)
            return await work(client, given)
        except BartError as error:
            print(f"bart-client: {error}", file=sys.stderr)
            return UNREACHABLE if error.code is grpc.StatusCode.UNAVAILABLE else FAILED


def connect(given: argparse.Namespace) -> AsyncClient:
    security = None
    if given.tls or given.ca or given.cert:
        security = Security(given.ca, given.cert, given.key)
    token = os.environ.get("BART_TOKEN")
    if given.token_file:
        token = pathlib.Path(given.token_file).read_text().strip()
    return AsyncClient(given.target, security=security, token=token, timeout=given.timeout, model=given.model)


def items(given: argparse.Namespace) -> Iterator[Item]:
    """The texts of the input files, each read only when it is needed."""
    for name in given.files:
        with open(0 if name == "-" else name, encoding="utf-8", closefd=name != "-") as file:
            if not (given.lines or given.jsonl):
                yield Item(name, file.read())
                continue
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                if given.jsonl:
                    record = json.loads(line)
                    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                        raise ValueError(f'{name}:{number}: not an object with "text"')
                    yield Item(str(record.get("id", number)), record["text"], record.get("target"))
                else:
                    yield Item(str(number), line.rstrip("\n"))


def options(given: argparse.Namespace) -> dict[str, Any]:
    found = {} if given.num_beams is None else {"num_beams": given.num_beams}
    for entry in given.option:
        name, separator, value = entry.partition("=")
        if not separator:
            raise ValueError(f"--option {entry!r} is not NAME=JSON")
        found[name] = json.loads(value)
    return found


async def stream(client: AsyncClient, given: argparse.Namespace) -> int:
    for item in items(given):
        async for piece in client.stream(item.text, long_input=given.long_input, **options(given)):
            print(piece, end="", flush=True)
        print()
    return 0


async def work(client: AsyncClient, given: argparse.Namespace) -> int:
    """Sends all items, several at a time, and prints the answers in the order of the input; returns the exit status."""
    if given.command == "summarize":
        chosen = options(given)

        async def answer(item: Item) -> Any:
            return await client.summarize(item.text, long_input=given.long_input, **chosen)
    elif given.command == "score":

        async def answer(item: Item) -> Any:
            target = given.target_text if item.target is None else item.target
            return await client.score(item.text, check_target(item.name, target), long_input=given.long_input)
    else:

        async def answer(item: Item) -> Any:
            return await client.classify(
                item.text, given.label, hypothesis_template=given.template, multi_label=given.multi_label
            )

    progress = Progress(not given.quiet and sys.stderr.isatty())
    unreachable = False
    async for item, outcome in in_order(items(given), answer, given.concurrency):
        failed = isinstance(outcome, BartError)
        progress.step(failed)
        if isinstance(outcome, BartError):
            unreachable |= outcome.code is grpc.StatusCode.UNAVAILABLE
            progress.print(f"bart-client: {item.name}: {outcome}", file=sys.stderr)
            if given.json or given.jsonl:
                error = {"code": outcome.code.name, "message": outcome.message}
                progress.print(json.dumps({"id": item.name, "error": error}))
        elif given.json or given.jsonl:
            progress.print(json.dumps({"id": item.name, **dataclasses.asdict(outcome)}, ensure_ascii=False))
        elif given.command == "summarize":
            progress.print(outcome.text)
        elif given.command == "score":
            progress.print(f"{outcome.log_prob:.4f}")
        else:
            progress.print("\t".join(f"{label.label}={label.score:.4f}" for label in outcome.labels))
    progress.end()
    if not progress.failed:
        return 0
    return UNREACHABLE if unreachable and progress.failed == progress.done else FAILED


def check_target(name: str, target: Any) -> str | list[int]:
    """The target of one text; ValueError unless it is a text or token ids."""
    if isinstance(target, str) or (isinstance(target, list) and all(isinstance(token, int) for token in target)):
        return target
    raise ValueError(f'{name}: the target is {target!r}; give --target-text, or a text or token ids as "target"')


async def in_order(
    source: Iterator[Item], answer: Callable[[Item], Coroutine[Any, Any, Any]], concurrency: int
) -> AsyncIterator[tuple[Item, Any]]:
    """Yields (item, answer or BartError) in the order of `source`.

    At most `concurrency` answers are awaited at a time, and no more items are read than that.
    """
    flying: collections.deque[tuple[Item, asyncio.Task[Any]]] = collections.deque()
    try:
        for item in source:
            flying.append((item, asyncio.create_task(answer(item))))
            if len(flying) >= max(1, concurrency):
                yield await landed(*flying.popleft())
        while flying:
            yield await landed(*flying.popleft())
    finally:
        for _, task in flying:
            task.cancel()


async def landed(item: Item, task: asyncio.Task[Any]) -> tuple[Item, Any]:
    try:
        return item, await task
    except BartError as error:
        return item, error


class Progress:
    """Counts the items that are done and that failed, and shows both on a terminal's standard error if `shown`."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self.done = 0
        self.failed = 0

    def step(self, failed: bool) -> None:
        self.done += 1
        self.failed += failed

    def print(self, line: str, file: Any = None) -> None:
        self.end()
        print(line, file=file, flush=True)
        if self._shown:
            print(f"{self.done} done, {self.failed} failed", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
