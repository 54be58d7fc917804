"""Writes a run's weights, in float16 by default, as a folder that bart_inference and transformers load.

`python -m bart_training.export --run R --config training/bart_training/config.json --tokenizer T --out FOLDER`
"""

import argparse
import json
from pathlib import Path

import bart_inference
from bart_inference import Model
from tokenizers import Tokenizer

from bart_oneliner import Config
from bart_training.loop import load_params
from bart_training.tokenizer import save_tokenizer

GENERATION = Path(__file__).parent / "generation_config.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", default="float16")
    args = parser.parse_args()
    config = Config.from_json(json.loads(args.config.read_text()))
    tokenizer = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
    generation = json.loads(GENERATION.read_text())
    model = Model(load_params(args.run / "state.npz", config), config, generation, tokenizer)
    bart_inference.save(model, args.out, dtype=args.dtype)
    save_tokenizer(tokenizer, args.out, config.max_position_embeddings)


if __name__ == "__main__":
    main()
