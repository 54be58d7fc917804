"""Makes the initial weights of a run: from a checkpoint folder, from a BERT-like encoder, or at random."""

import argparse
import dataclasses
import json
from pathlib import Path

import bart_inference
import jax
from bart_inference.tokenization import pad, truncate
from tokenizers import Tokenizer

import bart_oneliner
from bart_oneliner import Config, Params
from bart_training import warmstart


def load_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def start(args: argparse.Namespace, tokenizer: Tokenizer, documents: list[str]) -> tuple[Params, Config]:
    """The initial weights and their config.

    args: --start, --config, --bert, --copying-heads, --dropout and --seed of the command line. With --bert, copying
    heads are fitted to the first 64 tokens of the first 1,000 documents.
    """
    if args.start:
        model = bart_inference.load(args.start)
        return model.params, dataclasses.replace(model.config, dropout=args.dropout)
    config = dataclasses.replace(Config.from_json(json.loads(args.config.read_text())), dropout=args.dropout)
    if not args.bert:
        return bart_oneliner.init(config, jax.random.key(args.seed)), config
    sample = [truncate(encoding.ids, 64) for encoding in tokenizer.encode_batch(documents[:1000])]
    params = warmstart.from_bert(args.bert, config, tokenizer, args.seed)
    params = warmstart.copying_heads(params, config, pad(sample, config.pad_token_id)[0], args.copying_heads, args.seed)
    return params, config
