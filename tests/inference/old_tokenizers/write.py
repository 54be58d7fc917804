"""Writes tokenizer folders in the forms of old versions of transformers, and golden.json: what 4.57.6 reads in them.

    python -m venv old && old/bin/pip install transformers==4.30.2 "numpy<2"
    python -m venv last && last/bin/pip install transformers==4.57.6
    old/bin/python tests/inference/old_tokenizers/write.py
    last/bin/python tests/inference/old_tokenizers/write.py

Each version writes its own folders with save_pretrained. Folders as uploaded in 2020 are written by hand, because the
versions of that year cannot be installed with Python 3.11. Then 4.57.6 reads all folders. Most folders need the same
vocab.json and merges.txt, which lie in `vocabulary`; golden.json says which folders need them. The tests need neither
environment.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer, normalizers
from transformers import (
    AutoTokenizer,
    BartTokenizer,
    BartTokenizerFast,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

HERE = Path(__file__).resolve().parent
VOCABULARY = HERE / "vocabulary"
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMES = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
    "cls_token": "<s>", "mask_token": "<mask>",
}  # fmt: skip
CORPUS = [
    "BART reads a long text and writes a short one.",
    "The library compiles arrays into fast programs, and the programs run on any device.",
    "A small tool that shows the weather in the terminal; it needs a network connection.",
    "The cat sat on the mat while the dog, who was tired, slept under the old table.",
]
FRAGMENTS = [
    "the", " the", "<sep>", " <sep> ", "bioinformatics", " bioinformatics", "JAX", "JAXs", "<topic>", "<mask>",
    " <mask>", "<s>", "</s>", "[BOS]", "[MASK]", " ", "  ", "\n", ".", ", ", "naïve", " 日本語", "weather", " 12", "'s",
    "Weather",
]  # fmt: skip


def texts() -> list[str]:
    """The texts to tokenize, the same for every version of transformers: CORPUS, unusual texts, shuffled FRAGMENTS."""
    draw = random.Random(0)
    mixed = ["".join(draw.choices(FRAGMENTS, k=draw.randint(1, 12))) for _ in range(20)]
    return [*CORPUS, "", " ", "\n\t  \r\n", "he is n't here , no ? emoji 👩‍👩‍👧 end", *mixed]


def token(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": True, **flags}


def by_hand(size: int) -> dict[str, dict[str, Any]]:
    """Folder -> file name -> content, for folders that no installable version writes. size: tokens in vocab.json."""
    mask = {"mask_token": token("<mask>", lstrip=True)}
    renamed = {"<s>": "[BOS]", "</s>": "[EOS]", "<mask>": "[MASK]"}
    vocabulary = json.loads((VOCABULARY / "vocab.json").read_text())
    fast = json.loads(Tokenizer.from_file(str(HERE / "4.30.2-fast" / "tokenizer.json")).to_str())
    fast["added_tokens"] = fast["added_tokens"][: len(SPECIAL)]
    return {
        "2020-bare": {},
        "2020-added": {
            "special_tokens_map.json": NAMES,
            "tokenizer_config.json": {"max_len": 1024},
            "added_tokens.json": {"<sep>": size, "bioinformatics": size + 1},
        },
        "2020-special": {
            "special_tokens_map.json": {**NAMES, **mask, "additional_special_tokens": ["<sep>", "<topic>"]},
            "tokenizer_config.json": {"model_max_length": 1024},
            "added_tokens.json": {"<sep>": size, "JAX": size + 2, "<topic>": size + 1},
        },
        "2020-renamed": {
            "vocab.json": {renamed.get(name, name): i for name, i in vocabulary.items()},
            "special_tokens_map.json": {name: renamed.get(t, t) for name, t in NAMES.items()},
        },
        "2021-json": {"tokenizer.json": fast},
        "2021-json-and-added": {
            "tokenizer.json": fast,
            "special_tokens_map.json": {**NAMES, **mask, "additional_special_tokens": ["<sep>"]},
            "added_tokens.json": {"<sep>": size, "bioinformatics": size + 1},
        },
    }  # fmt: skip


def saved(version: str) -> None:
    """Writes this version's folders with save_pretrained, then deletes files that are equal to one in `vocabulary`."""
    files = (str(VOCABULARY / "vocab.json"), str(VOCABULARY / "merges.txt"))
    kinds = {"slow": BartTokenizer, "fast": BartTokenizerFast}
    if version == "4.57.6":
        kinds["roberta"] = RobertaTokenizer
    for name, kind in kinds.items():
        tokenizer = kind(*files, model_max_length=1024, add_prefix_space=name == "roberta")
        tokenizer.add_tokens(["bioinformatics", AddedToken("JAX", single_word=True)])
        tokenizer.add_special_tokens({"additional_special_tokens": ["<sep>", AddedToken("<topic>", rstrip=True)]})
        tokenizer.save_pretrained(HERE / f"{version}-{name}")
    if version == "4.57.6":
        backend = Tokenizer.from_file(str(HERE / f"{version}-fast" / "tokenizer.json"))
        backend.normalizer = normalizers.NFD()
        backend = PreTrainedTokenizerFast(tokenizer_object=backend, **NAMES, model_max_length=512)
        backend.save_pretrained(HERE / f"{version}-any")
    for name in ("vocab.json", "merges.txt"):
        for path in HERE.glob(f"{version}-*/{name}"):
            if json_or_lines(path) == json_or_lines(VOCABULARY / name):
                path.unlink()


def json_or_lines(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return (
        json.loads(text) if path.suffix == ".json" else text.splitlines()[1:]
    )  # without the line of merges.txt that names its version


def golden(folder: Path) -> dict[str, Any]:
    """What transformers 4.57.6 reads in a folder: ids, offsets and decoded texts of `texts`, and the added tokens."""
    with tempfile.TemporaryDirectory() as whole:
        shutil.copytree(folder, whole, dirs_exist_ok=True)
        json_only = "tokenizer.json" in {path.name for path in folder.iterdir()}
        added = [] if json_only else [n for n in ("vocab.json", "merges.txt") if not (folder / n).exists()]
        for name in added:
            shutil.copy(VOCABULARY / name, whole)
        (Path(whole) / "config.json").write_text('{"model_type": "bart"}')
        tokenizer = AutoTokenizer.from_pretrained(whole)
    rows = tokenizer(texts(), return_offsets_mapping=True)
    decoded = {
        skip: [tokenizer.decode(row, skip, clean_up_tokenization_spaces=False) for row in rows["input_ids"]]
        for skip in (True, False)
    }
    return {
        "vocabulary": added,
        "class": type(tokenizer).__name__,
        "ids": rows["input_ids"],
        "offsets": rows["offset_mapping"],
        "pairs": [tokenizer(text, "and a second")["input_ids"] for text in texts()],
        "text": decoded[True],
        "text_with_special_tokens": decoded[False],
        "added_tokens": json.loads(tokenizer.backend_tokenizer.to_str())["added_tokens"],
    }


def main() -> int:
    version = transformers.__version__
    if version not in ("4.30.2", "4.57.6"):
        print(f"transformers {version}: the folders are written by 4.30.2, then by 4.57.6", file=sys.stderr)
        return 1
    if version == "4.30.2":
        VOCABULARY.mkdir(exist_ok=True)
        bpe = ByteLevelBPETokenizer()
        bpe.train_from_iterator(CORPUS, vocab_size=380, min_frequency=1, special_tokens=SPECIAL, show_progress=False)
        bpe.save_model(str(VOCABULARY))
        saved(version)
        return 0
    saved(version)
    for name, files in by_hand(len(json.loads((VOCABULARY / "vocab.json").read_text()))).items():
        (HERE / name).mkdir(exist_ok=True)
        readme = f"write.py wrote this folder in the form of tokenizer folders that were uploaded in {name[:4]}.\n"
        (HERE / name / "README").write_text(readme)
        for file, content in files.items():
            (HERE / name / file).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    folders = sorted(path for path in HERE.iterdir() if path.is_dir() and path.name[0] in "24")
    result = {"texts": texts(), "folders": {folder.name: golden(folder) for folder in folders}}
    (HERE / "golden.json").write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(folders)} folders, {len(texts())} texts each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
