"""The command line of a training stage. Imports neither jax nor the extra `train`."""

import argparse
import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Options:
    """How a stage trains."""

    steps: int  # batches
    learning_rate: float = 5e-4
    warmup: int = 100  # number of first steps over which the learning rate rises
    decay: int = 0  # number of last steps over which the learning rate falls to zero
    weight_decay: float = 0.01
    clip: float = 1.0  # the largest global norm of the gradients
    label_smoothing: float = 0.0
    accumulate: int = 1  # batches per update
    bfloat16: bool = False  # compute in bfloat16, which is for TPUs; weights and optimizer stay in float32
    seed: int = 0
    save_every: int = 200  # steps
    log_every: int = 10  # steps

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Options":
        return cls(**{field.name: getattr(args, field.name) for field in dataclasses.fields(cls)})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds flags for the files of a run, its initial weights and batch size, and a flag for every field of Options."""
    parser.add_argument("--corpus", type=Path, required=True, help="folder with train.jsonl.gz")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--start", type=Path, help="folder of a model to start from")
    parser.add_argument("--config", type=Path, help="config.json of a new model")
    parser.add_argument("--bert", type=Path, help="start the new model from this BERT-like encoder")
    parser.add_argument(
        "--copying-heads", type=int, default=8, help="with --bert: number of heads that start by copying"
    )
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout rate; 0 is better for less than two epochs")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: state.npz, log.jsonl")
    parser.add_argument("--batch-size", type=int, default=32)
    for field in dataclasses.fields(Options):
        flag = f"--{field.name.replace('_', '-')}"
        if field.default is dataclasses.MISSING:
            parser.add_argument(flag, type=int, required=True)
        elif isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default)
