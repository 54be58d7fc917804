"""Tokenizer folders of old and new versions give the tokens of transformers 4.57.6 (golden.json), or an error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bart_inference.tokenizer_files import load_tokenizer, save_tokenizer
from tokenizers import Tokenizer
from transformers import AutoTokenizer

WRITTEN = Path(__file__).parent / "old_tokenizers"
GOLDEN = json.loads((WRITTEN / "golden.json").read_text(encoding="utf-8"))
TEXTS: list[str] = GOLDEN["texts"]
FOLDERS = list(GOLDEN["folders"])


def whole(name: str, folder: Path) -> Path:
    """Copies old_tokenizers/`name` to `folder` and adds the vocabulary files that it needs. Returns `folder`."""
    shutil.copytree(WRITTEN / name, folder, dirs_exist_ok=True)
    for file in GOLDEN["folders"][name]["vocabulary"]:
        shutil.copy(WRITTEN / "vocabulary" / file, folder)
    write(folder, "config.json", {"model_type": "bart"})
    return folder


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def loaded(folder: Path) -> Tokenizer:
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize("name", FOLDERS)
def test_an_old_folder_has_the_tokens_of_transformers_4(tmp_path: Path, name: str) -> None:
    golden, tokenizer = GOLDEN["folders"][name], loaded(whole(name, tmp_path))
    assert json.loads(tokenizer.to_str())["added_tokens"] == golden["added_tokens"]
    for i, text in enumerate(TEXTS):
        encoded = tokenizer.encode(text)
        assert encoded.ids == golden["ids"][i], repr(text)
        assert [list(offset) for offset in encoded.offsets] == golden["offsets"][i], repr(text)
        assert tokenizer.encode(text, "and a second").ids == golden["pairs"][i], repr(text)
        assert tokenizer.decode(encoded.ids) == golden["text"][i], repr(text)
        with_special_tokens = tokenizer.decode(encoded.ids, skip_special_tokens=False)
        assert with_special_tokens == golden["text_with_special_tokens"][i], repr(text)


# Each special_tokens_map.json has a token in additional_special_tokens that is a JSON object and no string.
# transformers 5 raises TypeError for it.
UNREADABLE_BY_5 = ["4.30.2-fast", "4.30.2-slow"]


@pytest.mark.parametrize("name", [name for name in FOLDERS if name not in UNREADABLE_BY_5])
def test_an_old_folder_has_the_tokens_of_transformers_5_but_around_the_mask(tmp_path: Path, name: str) -> None:
    """Texts with "mask" are left out: if no file sets lstrip, only transformers 5 excludes the space before <mask>."""
    folder = whole(name, tmp_path)
    ours, theirs = loaded(folder), AutoTokenizer.from_pretrained(folder)
    texts = [text for text in TEXTS if "mask" not in text.lower()]
    assert len(texts) > len(TEXTS) // 2
    for text in texts:
        ids = ours.encode(text).ids
        assert ids == theirs(text)["input_ids"], repr(text)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids), repr(text)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_saved_tokenizer_is_read_again_and_by_transformers_as_before(tmp_path: Path, name: str) -> None:
    ours = loaded(whole(name, tmp_path / "old"))
    (tmp_path / "new").mkdir()
    save_tokenizer(ours, tmp_path / "new", 512)
    write(tmp_path / "new", "config.json", {"model_type": "bart"})
    again, theirs = loaded(tmp_path / "new"), AutoTokenizer.from_pretrained(tmp_path / "new")
    assert again.to_str() == ours.to_str()
    for text in TEXTS:
        ids = ours.encode(text).ids
        assert ids == theirs(text)["input_ids"], repr(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), repr(text)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids), repr(text)
    assert theirs.model_max_length == 512


def with_fields(name: str, **fields: Any) -> Callable[[Path], None]:
    """Returns a function that sets fields of a JSON file in a folder, and creates the file if it is missing."""

    def change(folder: Path) -> None:
        before = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        write(folder, name, before | fields)

    return change


def lines(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda folder: write(folder, "merges.txt", change((folder / "merges.txt").read_text()))


SIZE = len(json.loads((WRITTEN / "vocabulary" / "vocab.json").read_text()))
REFUSED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "ids with gaps": (
        "2020-bare",
        with_fields("added_tokens.json", new=SIZE, newer=SIZE + 2),
        rf"added token 'newer' the id {SIZE + 2}, transformers' fast tokenizer {SIZE + 1}",
    ),
    "an id of the vocabulary": ("2020-bare", with_fields("added_tokens.json", y=7), "added token 'y' the id 7"),
    "two ids of one token": (
        "2020-bare",
        with_fields("added_tokens.json", **{"<mask>": SIZE}),
        f"'<mask>' the id {SIZE}",
    ),
    "a gap in added_tokens_decoder": (
        "4.57.6-slow",
        with_fields("tokenizer_config.json", added_tokens_decoder={str(SIZE + 9): {"content": "new"}}),
        f"added token 'new' the id {SIZE + 9}",
    ),
    "merges without the line that names the version": (
        "2020-bare",
        lines(lambda text: text.split("\n", 1)[1]),
        "merges.txt does not begin with a line '#version'",
    ),
    "merges cut at the end": ("2020-bare", lines(lambda text: text.rstrip("\n")), "does not end with a newline"),
    "merges of another vocabulary": ("2020-bare", lines(lambda text: text + "Q Q\n"), "files are damaged: vocab.json"),
    "only a vocabulary": (
        "2020-bare",
        lambda folder: (folder / "merges.txt").unlink(),
        "the tokenizer is incomplete: the folder has only vocab.json; if transformers reads",
    ),
    "SentencePiece": (
        "2021-json",
        lambda folder: (folder / "tokenizer.json").rename(folder / "spiece.model") and None,
        "the folder has only spiece.model",
    ),
    "another class": (
        "2021-json",
        with_fields("tokenizer_config.json", tokenizer_class="BertTokenizerFast"),
        "tokenizer_class 'BertTokenizerFast' is not supported.*PreTrainedTokenizerFast in tokenizer_config.json",
    ),
    "another class in config.json": (
        "2021-json",
        with_fields("config.json", tokenizer_class="T5Tokenizer"),
        "'T5Tokenizer'",
    ),
    "any tokenizer without its file": (
        "2020-bare",
        with_fields("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast"),
        "needs a tokenizer.json",
    ),
    "code": (
        "2021-json",
        with_fields("tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Mine", None]}),
        "Python code .auto_map., which is not executed",
    ),
    "a file for each version": (
        "2021-json",
        with_fields("tokenizer_config.json", fast_tokenizer_files=["tokenizer.4.0.json"]),
        "fast_tokenizer_files",
    ),
    "a prefix space that only transformers 5 adds": (
        "4.57.6-any",
        with_fields(
            "tokenizer.json", pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
        ),
        "set add_prefix_space in tokenizer_config.json",
    ),
    "a cut file": ("2020-added", lambda f: write(f, "added_tokens.json", '{"a'), "added_tokens.json is not readable"),
    "a list": ("2020-added", lambda f: write(f, "special_tokens_map.json", "[]"), "special_tokens_map.json holds list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_whose_tokens_cannot_be_reproduced_is_refused(tmp_path: Path, case: str) -> None:
    name, change, message = REFUSED[case]
    change(whole(name, tmp_path))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)
