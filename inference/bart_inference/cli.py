"""The command line of `python bart_oneliner.py` and `bart-oneliner`: summaries of texts, files or bundled documents.

jax is imported after the arguments are checked, so that `--help` and messages about wrong arguments appear at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bart_inference.compile_cache import DEFAULT_FOLDER, TROUBLE, use

if TYPE_CHECKING:
    from bart_inference import Model


# Up to this many texts, stored programs of the layout "cpu" take less time than those of "onednn", which run faster but
# have to be compiled each time (measured with bart-base).
FEW_TEXTS = 2


class Document(NamedTuple):
    """A text to summarize."""

    name: str
    text: str
    reference: str | None = None  # a person's summary of the text, which only bundled documents have


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments. Wrong ones end the process with status 2 and a message."""
    parser = argparse.ArgumentParser(
        prog="bart-oneliner",
        description="Summarize texts with BART. Without a text: a few bundled documents.",
        epilog="Example: bart-oneliner -f report.txt --model facebook/bart-large-cnn --num-beams 4",
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the text itself, or - for standard input")
    parser.add_argument("-f", "--file", nargs="+", default=[], metavar="FILE", help="summarize each of these files")
    parser.add_argument("--model", metavar="FOLDER|HUB_ID", help="a checkpoint (default: the embedded one)")
    parser.add_argument("--adapter", metavar="FOLDER|HUB_ID", help="a LoRA adapter, merged into the checkpoint")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="float32 is exact; bfloat16 and int8 are faster and change some summaries [%(default)s]",
    )
    parser.add_argument("--num-beams", type=int, metavar="N", help="beams; 1 is greedy search")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest summary, in tokens")
    parser.add_argument("--stream", action="store_true", help="print tokens as they become final")
    parser.add_argument("--json", action="store_true", help="one JSON object per document")
    parser.add_argument(
        "--compile-cache",
        metavar="FOLDER|off",
        default=DEFAULT_FOLDER,
        help="folder of compiled programs, trusted like code [%(default)s]",
    )
    parser.add_argument("--one-line", action="store_true", help="greedy search by the one-line `bart`, uncached (slow)")
    args = parser.parse_args(argv)
    if args.text is not None and args.file:
        parser.error("TEXT and --file exclude each other")
    if args.stream and (args.json or args.one_line):
        parser.error("--stream excludes --json and --one-line")
    if args.one_line and args.num_beams not in (None, 1):
        parser.error(f"--one-line is a greedy search, --num-beams {args.num_beams} is not")
    if args.one_line and args.dtype != "float32":
        parser.error(f"--one-line computes in float32, --dtype {args.dtype} does not")
    return args


def read_documents(args: argparse.Namespace) -> list[Document]:
    """The texts to summarize. OSError or UnicodeDecodeError for a file that cannot be read as text."""
    if args.text == "-":
        return [Document("standard input", sys.stdin.read())]
    if args.text is not None:
        return [Document("text", args.text)]
    if args.file:
        return [Document(name, Path(name).read_text(encoding="utf-8")) for name in args.file]
    from bart_inference.checkpoint import embedded

    lines = (embedded() / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) for line in lines]
    return [Document(e["package"], e["document"], e["summary"]) for e in examples]


def one_line_summary(model: Model, text: str, **options: Any) -> str:
    """The greedy summary by the one-line function `bart`, with a whole forward pass for each token."""
    import jax
    import numpy as np

    from bart_inference.generation.options import as_ids, resolve
    from bart_inference.inputs import encode_within, require_tokenizer
    from bart_inference.tokenization import decode_text
    from bart_oneliner import bart

    config = model.config
    if config.activation_function != "gelu" or config.scale_embedding:
        raise ValueError(
            "--one-line needs activation_function 'gelu' and scale_embedding false, as in the published BART; this "
            f"checkpoint has {config.activation_function!r} and {config.scale_embedding}"
        )
    [resolved] = resolve(model.generation, config, options | {"num_beams": 1}, None, 1)
    source = np.array([encode_within(model, text, "text")], np.int32)
    max_length = resolved.lengths(1, config)[1]
    ids = np.full((1, max_length), config.pad_token_id, np.int32)
    ids[0, 0] = resolved.start_id
    compiled = jax.jit(bart)
    for t in range(1, max_length):
        with jax.default_matmul_precision("highest"):
            logits = compiled(model.params, source, np.ones_like(source), ids)
        ids[0, t] = int(logits[0, t - 1].argmax())
        if t == 1 and resolved.forced_bos_token_id is not None:
            ids[0, t] = resolved.forced_bos_token_id
        if t == max_length - 1 and resolved.forced_eos_token_id is not None:
            ids[0, t] = as_ids(resolved.forced_eos_token_id)[0]
        if ids[0, t] in resolved.eos_ids:
            break
    return decode_text(require_tokenizer(model), ids[0, : t + 1])


def write_summaries(model: Model, texts: Sequence[str], args: argparse.Namespace) -> Iterator[str]:
    """A summary for each text. With --stream its parts are also printed, each as soon as it is final."""
    from bart_inference import prepare, summarize
    from bart_inference.generation.stream import stream

    options: dict[str, Any] = {}
    if args.num_beams is not None:
        options["num_beams"] = args.num_beams
    if args.max_new_tokens is not None:
        options["max_new_tokens"] = args.max_new_tokens
    layout = choose_layout(model, len(texts), args)
    if args.one_line:
        yield from (one_line_summary(model, text, **options) for text in texts)
        return
    prepared = prepare(model, layout)
    if not args.stream:
        yield from summarize(prepared, texts, **options)
        return
    for text in texts:
        summary = ""
        for part in stream(prepared, text, **options):
            print(part, end="", flush=True)
            summary += part
        print()
        yield summary


def choose_layout(model: Model, texts: int, args: argparse.Namespace) -> str:
    """The layout in which to compute a number of texts. It also sets the compile cache, if the layout can use it.

    JAX cannot store the programs of the layout "onednn". They are faster than those of "cpu", and worth compiling for
    more than FEW_TEXTS texts, and always in int8 and bfloat16, in which XLA's own products are slow.
    """
    from bart_inference.model.layout import default_layout

    layout = default_layout(model)
    if args.compile_cache == "off":
        return layout
    if layout == "onednn" and (texts > FEW_TEXTS or args.dtype != "float32") and not args.one_line:
        return layout
    try:
        use(args.compile_cache)
    except OSError as error:
        warnings.warn(f"programs are not stored, because the compile cache cannot be used: {error}", stacklevel=1)
    return "cpu" if layout == "onednn" else layout


def show(document: Document, summary: str, args: argparse.Namespace) -> None:
    """Print a summary in the form that the flags ask for. With --stream it was printed before, in parts."""
    if args.json:
        record = {"name": document.name, "summary": summary, "model": args.model or "debian-tiny"}
        print(json.dumps(record, ensure_ascii=False))
    elif document.reference is not None:
        print(f"── {document.name} " + "─" * max(0, 90 - len(document.name)))
        print(textwrap.fill(document.text, 94, initial_indent="   ", subsequent_indent="   "))
        print(f" → {summary}\n   (its maintainer wrote: {document.reference})\n")
    elif not args.stream:
        print(summary)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status: 0, or 1 after an error, with one line on standard error."""
    args = parse(argv)
    printed: set[str] = set()  # the messages that were printed; of those in TROUBLE only the beginnings

    def notice(message: Warning | str, *_: Any, **__: Any) -> None:
        """Prints a warning once. JAX warns about its compile cache for each program: only the first time is printed."""
        kind = str(message)
        for beginning in TROUBLE:
            if kind.startswith(beginning):
                kind = beginning
        if kind not in printed:
            printed.add(kind)
            print(f"bart-oneliner: {message}", file=sys.stderr)

    warnings.showwarning = notice
    try:
        documents = read_documents(args)
        import jax

        from bart_inference import load

        start = time.perf_counter()
        model = load(args.model, args.dtype, args.adapter)
        loaded = time.perf_counter()
        summaries = write_summaries(model, [document.text for document in documents], args)
        for document, summary in zip(documents, summaries, strict=True):
            show(document, summary, args)
        end = time.perf_counter()
    except (ValueError, OSError) as error:
        notice(str(error))
        return 1
    if args.text is None and not args.file and not args.json:
        size = sum(leaf.size for leaf in jax.tree.leaves(model.params)) / 1e6
        print(
            f"{args.model or 'debian-tiny (embedded)'}: {size:.1f} M parameters on {jax.devices()[0].platform}, loaded "
            f"in {loaded - start:.1f} s, {len(documents)} documents in {end - loaded:.1f} s, compilation included"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
