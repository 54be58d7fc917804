"""Trains the tokenizer: `python -m bart_training.tokenizer --corpus CORPUS --out FOLDER`.

Cased byte-level BPE with the special tokens of facebook/bart-base: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last. It is
trained on the train split only.
"""

import argparse
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from bart_training.data import read_records

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """A tokenizer with vocab_size tokens, special tokens included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    ends = ("</s>", 2), ("<s>", 0)  # sep and cls, positional arguments in tokenizers
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Writes tokenizer.json, and the tokenizer_config.json that transformers' AutoTokenizer needs."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    config: dict[str, object] = {f"{kind}_token": token for kind, token in names.items()}
    config |= {"tokenizer_class": "BartTokenizer", "model_max_length": max_length, "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--max-length", type=int, default=512)
    args = parser.parse_args()
    records = read_records(args.corpus / "train.jsonl.gz")
    texts = []
    for record in records:
        texts += [record["document"], record["summary"]]
    save_tokenizer(train_tokenizer(texts, args.vocab_size), args.out, args.max_length)


if __name__ == "__main__":
    main()
