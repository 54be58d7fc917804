"""The command `bart-client`, or `python -m bart_client`: summarizes, classifies and scores texts, and lists models.

Exit status: 0 all items were answered, 1 some failed, 2 wrong usage, 3 no server could be reached, 130 interrupted.
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
    """A text to work on."""

    name: str  # the file's name, the line's number or the record's id
    text: str
    target: str | list[int] | None = None  # the record's "target", for the command `score`


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(arguments)
    try:
        sys.exit(asyncio.run(run(args)))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (OSError, ValueError, TypeError) as error:
        parser.exit(USAGE, f"bart-client: {error}\n")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bart-client", description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument(
        "--target",
        default=os.environ.get("BART_TARGET", "localhost:50051"),
        help="HOST:PORT of the server [$BART_TARGET]",
    )
    parser.add_argument("--model", default="", help="name of the model (default: the server's first)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each item, retries included")
    parser.add_argument("--tls", action="store_true", help="use TLS, trusting the system's authorities")
    parser.add_argument("--ca", help="PEM file of the authorities to trust")
    parser.add_argument("--cert", help="PEM file of a client certificate")
    parser.add_argument("--key", help="PEM file of the client certificate's private key")
    parser.add_argument("--token-file", help="file with a bearer token [or $BART_TOKEN]")
    commands = parser.add_subparsers(dest="command", required=True)

    summarize = commands.add_parser("summarize", help="summarize files, standard input or JSON lines")
    add_input(summarize)
    summarize.add_argument("--long-input", choices=["error", "truncate", "chunk"], default="error")
    summarize.add_argument("--beams", type=int, dest="num_beams", help="beam width")
    summarize.add_argument(
        "-o",
        "--option",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="any generation option (repeatable)",
    )
    summarize.add_argument("--stream", action="store_true", help="print each summary while it is generated")

    classify = commands.add_parser("classify", help="score labels with a model for natural language inference")
    add_input(classify)
    classify.add_argument("--label", action="append", required=True, help="a label; give it several times")
    classify.add_argument(
        "--template",
        default="",
        help='the hypothesis, with "{}" in the place of a label',
    )
    classify.add_argument("--multi-label", action="store_true", help="score each label independently of the others")

    score = commands.add_parser(
        "score", help="log-probability of a target text, given a source text", allow_abbrev=False
    )
    add_input(score)
    score.add_argument("--target-text", help='the target; with --jsonl, for records without "target"')
    score.add_argument("--long-input", choices=["error", "truncate"], default="error")

    commands.add_parser("models", help="list the models and their limits as JSON")
    return parser


def add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", default=["-"], help="one text each; - is standard input")
    parser.add_argument("--lines", action="store_true", help="each line is a text")
    parser.add_argument("--jsonl", action="store_true", help='each line is an object with "text" and optionally "id"')
    parser.add_argument("--json", action="store_true", help="print JSON lines with scores, counts and times")
    parser.add_argument("--concurrency", type=int, default=8, help="texts that are sent at once")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


async def run(args: argparse.Namespace) -> int:
    async with connect(args) as client:
        try:
            if args.command == "models":
                for model in await client.models():
                    print(json.dumps(json_format.MessageToDict(model, preserving_proto_field_name=True)))
                return 0
            if args.command == "summarize" and args.stream:
                return await stream(client, args)
            return await work(client, args)
        except BartError as error:
            print(f"bart-client: {error}", file=sys.stderr)
            return UNREACHABLE if error.code is grpc.StatusCode.UNAVAILABLE else FAILED


def connect(args: argparse.Namespace) -> AsyncClient:
    security = None
    if args.tls or args.ca or args.cert:
        security = Security(args.ca, args.cert, args.key)
    token = os.environ.get("BART_TOKEN")
    if args.token_file:
        token = pathlib.Path(args.token_file).read_text().strip()
    return AsyncClient(args.target, security=security, token=token, timeout=args.timeout, model=args.model)


def read_items(args: argparse.Namespace) -> Iterator[Item]:
    """Yields the texts of the input files, which are read as needed.

    Raises ValueError for a JSON line without a text.
    """
    for name in args.files:
        with open(0 if name == "-" else name, encoding="utf-8", closefd=name != "-") as file:
            if not (args.lines or args.jsonl):
                yield Item(name, file.read())
                continue
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                if args.jsonl:
                    record = json.loads(line)
                    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                        raise ValueError(f'{name}:{number}: not an object with "text"')
                    yield Item(str(record.get("id", number)), record["text"], record.get("target"))
                else:
                    yield Item(str(number), line.rstrip("\n"))


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The generation options that the flags set. Raises ValueError for an --option that is not NAME=JSON."""
    values: dict[str, Any] = {}
    if args.num_beams is not None:
        values["num_beams"] = args.num_beams
    for entry in args.option:
        name, separator, value = entry.partition("=")
        if not separator:
            raise ValueError(f"--option {entry!r} is not NAME=JSON")
        values[name] = json.loads(value)
    return values


async def stream(client: AsyncClient, args: argparse.Namespace) -> int:
    """Summarizes one item after the other, and prints each part of a summary when it arrives.

    Returns the exit status.
    """
    for item in read_items(args):
        async for part in client.stream(item.text, long_input=args.long_input, **options(args)):
            print(part, end="", flush=True)
        print()
    return 0


async def work(client: AsyncClient, args: argparse.Namespace) -> int:
    """Answers every item, several at once, and prints the answers in the items' order. Returns the exit status."""
    progress = Progress(not args.quiet and sys.stderr.isatty())
    unreachable = False
    async for item, outcome in in_order(read_items(args), answerer(client, args), args.concurrency):
        failed = isinstance(outcome, BartError)
        progress.step(failed)
        if isinstance(outcome, BartError):
            unreachable |= outcome.code is grpc.StatusCode.UNAVAILABLE
            progress.print(f"bart-client: {item.name}: {outcome}", file=sys.stderr)
            if args.json or args.jsonl:
                error = {"code": outcome.code.name, "message": outcome.message}
                progress.print(json.dumps({"id": item.name, "error": error}))
        elif args.json or args.jsonl:
            progress.print(json.dumps({"id": item.name, **dataclasses.asdict(outcome)}, ensure_ascii=False))
        elif args.command == "summarize":
            progress.print(outcome.text)
        elif args.command == "score":
            progress.print(f"{outcome.log_prob:.4f}")
        else:
            progress.print("\t".join(f"{label.label}={label.score:.4f}" for label in outcome.labels))
    progress.end()
    if not progress.failed:
        return 0
    return UNREACHABLE if unreachable and progress.failed == progress.done else FAILED


def answerer(client: AsyncClient, args: argparse.Namespace) -> Callable[[Item], Coroutine[Any, Any, Any]]:
    """The function that answers one item, by the command and its flags."""
    if args.command == "summarize":
        generation_options = options(args)

        async def answer(item: Item) -> Any:
            return await client.summarize(item.text, long_input=args.long_input, **generation_options)
    elif args.command == "score":

        async def answer(item: Item) -> Any:
            target = args.target_text if item.target is None else item.target
            return await client.score(item.text, check_target(item.name, target), long_input=args.long_input)
    else:

        async def answer(item: Item) -> Any:
            return await client.classify(
                item.text, args.label, hypothesis_template=args.template, multi_label=args.multi_label
            )

    return answer


def check_target(name: str, target: Any) -> str | list[int]:
    """Returns `target`. Raises ValueError if it is neither a text nor token ids. name: the item's, for the message."""
    if isinstance(target, str) or (isinstance(target, list) and all(isinstance(token, int) for token in target)):
        return target
    raise ValueError(f'{name}: the target is {target!r}; give --target-text, or a text or token ids as "target"')


async def in_order(
    items: Iterator[Item], answer: Callable[[Item], Coroutine[Any, Any, Any]], concurrency: int
) -> AsyncIterator[tuple[Item, Any]]:
    """Yields each item with its answer or BartError, in the items' order. At most `concurrency` are in flight."""
    in_flight: collections.deque[tuple[Item, asyncio.Task[Any]]] = collections.deque()
    try:
        for item in items:
            in_flight.append((item, asyncio.create_task(answer(item))))
            if len(in_flight) >= max(1, concurrency):
                yield await outcome_of(*in_flight.popleft())
        while in_flight:
            yield await outcome_of(*in_flight.popleft())
    finally:
        for _, task in in_flight:
            task.cancel()


async def outcome_of(item: Item, task: asyncio.Task[Any]) -> tuple[Item, Any]:
    """An item, and the answer of its task or the BartError that the task raised."""
    try:
        return item, await task
    except BartError as error:
        return item, error


class Progress:
    """The numbers of answered and failed items, on a line of standard error that is rewritten after each item."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self.done = 0
        self.failed = 0

    def step(self, failed: bool) -> None:
        """Counts an item."""
        self.done += 1
        self.failed += failed

    def print(self, line: str, file: Any = None) -> None:
        """Prints a line, and the progress below it. file: standard output if None."""
        self.end()
        print(line, file=file, flush=True)
        if self._shown:
            print(f"{self.done} done, {self.failed} failed", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Erases the progress."""
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
