"""Runs a stage of training (pre-training or fine-tuning) from the command line."""

import argparse
import json
import sys
from collections.abc import Sequence

from bart_training.options import Options, add_arguments

EXTRA = ("optax", "tqdm")  # packages of the extra `train`, which training needs


def run(
    prog: str,
    description: str | None,
    argv: Sequence[str] | None,
    limits: dict[int, float],
    target_buckets: list[int],
    mix: dict[str, float],
) -> int:
    """Runs a stage and returns its exit status: 2 if the arguments are wrong or the extra `train` is missing.

    limits: length in tokens to which a batch's sources are cut -> share of the batches. target_buckets: the lengths in
    tokens to which targets are padded. mix: the share of the batches of each objective, unless --mix sets it.
    """
    parser = argparse.ArgumentParser(
        prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--mix", type=json.loads, default=mix, help="share of each objective, as JSON")
    args = parser.parse_args(argv)
    try:
        from bart_training.loop import train
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        print(f"{prog}: {error.name} is missing: pip install 'bart-oneliner[train]'", file=sys.stderr)
        return 2
    from bart_training.data import Batches, read_records
    from bart_training.objectives import mixture
    from bart_training.start import load_tokenizer, start

    tokenizer = load_tokenizer(args.tokenizer)
    records = read_records(args.corpus / "train.jsonl.gz")
    params, config = start(args, tokenizer, [record["document"] for record in records])
    documents = tokenizer.encode_batch([record["document"] for record in records])
    summaries = tokenizer.encode_batch([record["summary"] for record in records])
    lengths = []
    for document, summary in zip(documents, summaries, strict=True):
        lengths.append((len(document.ids), len(summary.ids)))
    make = mixture(args.mix, records, tokenizer)
    batches = Batches(lengths, make, args.batch_size, limits, target_buckets, config.pad_token_id, args.seed)
    train(params, config, batches, Options.of(args), args.run)
    return 0
