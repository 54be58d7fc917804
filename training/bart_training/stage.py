"""A stage of training from the command line: pre-training and fine-tuning differ in what they draw batches from."""

import argparse
import json

from bart_training.data import Batches, read_records
from bart_training.loop import Options, add_arguments, train
from bart_training.objectives import mixture
from bart_training.start import add_start_arguments, load_tokenizer, start


def main(description: str | None, limits: dict[int, float], target_buckets: list[int], mix: dict[str, float]) -> None:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_start_arguments(parser)
    add_arguments(parser)
    parser.add_argument("--mix", type=json.loads, default=mix, help="share of each objective, as JSON")
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.tokenizer)
    records = read_records(args.corpus / "train.jsonl.gz")
    params, config = start(args, tokenizer, [record["document"] for record in records])
    sources, targets = (
        [len(e.ids) for e in tokenizer.encode_batch([record[name] for record in records])]
        for name in ("document", "summary")
    )
    lengths = list(zip(sources, targets, strict=True))
    make = mixture(args.mix, records, tokenizer)
    batches = Batches(lengths, make, args.batch_size, limits, target_buckets, config.pad_token_id, args.seed)
    train(params, config, batches, Options.of(args), args.run)
