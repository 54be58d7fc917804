"""A checkpoint's tokenizer from its files, of any age, with the tokens of transformers 4.57.6's fast tokenizers.

A folder has tokenizer.json, or vocab.json and merges.txt. What else says how they are read: tokenizer_config.json, and
in folders of before 2023 special_tokens_map.json and added_tokens.json. docs/checkpoints.md lists what is refused.
Imports no jax.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

Token = str | AddedToken
DEFAULTS = {  # BartTokenizerFast.__init__
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
    "cls_token": "<s>", "mask_token": "<mask>",
}  # fmt: skip
BYTE_LEVEL = ("BartTokenizer", "RobertaTokenizer")  # both read vocab.json and merges.txt in the same way
ANY_BACKEND = ("PreTrainedTokenizer", "TokenizersBackend")  # what tokenizer.json says, without tokens of their own
OTHER_VOCABULARIES = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "encoder.json")
SAVE_ANEW = "; where transformers reads the folder as it was trained, save_pretrained writes a tokenizer.json"


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The folder's tokenizer, which neither pads nor truncates by itself; None if it has no vocabulary.

    ValueError for files that are damaged, or whose tokens transformers would not reproduce.
    """
    has = {path.name for path in folder.iterdir()}
    if "tokenizer.json" not in has and not {"vocab.json", "merges.txt"} <= has:
        if lonely := sorted(has & {"vocab.json", "merges.txt", *OTHER_VOCABULARIES}):
            raise ValueError(f"of a tokenizer only {', '.join(lonely)} is there{SAVE_ANEW}")
        return None
    fields = read_fields(folder, "tokenizer_config.json")
    kind = tokenizer_class(folder, fields)
    backend = read_backend(folder) if "tokenizer.json" in has else None
    if backend is None and kind not in BYTE_LEVEL:
        raise ValueError(f"tokenizer_class {kind} needs a tokenizer.json")
    added, fields = added_tokens(folder, fields, backend)
    named = special_tokens(fields, kind, from_json=backend is not None)
    tokenizer = backend or byte_level_bpe(folder)
    add_tokens(tokenizer, added, named)
    if backend is None:
        tokenizer.post_processor = processors.RobertaProcessing(
            special_id(tokenizer, named, "sep_token"), special_id(tokenizer, named, "cls_token")
        )
    set_prefix_space(tokenizer, fields, kind)
    tokenizer.encode_special_tokens = bool(fields.get("split_special_tokens", False))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, longest: int) -> None:
    """Write tokenizer.json, and a tokenizer_config.json with which `load_tokenizer` and transformers read it so.

    A special token of BART's that the tokenizer lacks is null there, or transformers would add it. longest: in tokens,
    where transformers truncates.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    before, after = (
        json.loads(part.__getstate__()) if part else {} for part in (tokenizer.pre_tokenizer, tokenizer.post_processor)
    )
    standard = (before.get("type"), after.get("type"), tokenizer.normalizer) == ("ByteLevel", "RobertaProcessing", None)
    special = {str(token) for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    fields: dict[str, Any] = {name: token if token in special else None for name, token in DEFAULTS.items()}
    fields |= {"tokenizer_class": "BartTokenizer" if standard else "PreTrainedTokenizerFast"}
    if after.get("type") == "RobertaProcessing":
        fields |= {"cls_token": after["cls"][0], "sep_token": after["sep"][0]}
        fields |= {"bos_token": after["cls"][0], "eos_token": after["sep"][0], "trim_offsets": after["trim_offsets"]}
    if before.get("type") == "ByteLevel":
        fields["add_prefix_space"] = before["add_prefix_space"]
    fields["model_max_length"] = longest
    if tokenizer.encode_special_tokens:
        fields["split_special_tokens"] = True
    (folder / "tokenizer_config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_fields(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object, empty if the file is not there."""
    path = folder / name
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"the tokenizer's files are damaged: {name} is not readable as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"the tokenizer's files are damaged: {name} holds {type(fields).__name__}, not an object")
    return fields


def tokenizer_class(folder: Path, fields: Mapping[str, Any]) -> str:
    """The class's name without "Fast": tokenizer_config.json's, else config.json's, else BART's."""
    if "AutoTokenizer" in (fields.get("auto_map") or {}):
        raise ValueError("tokenizer_config.json names Python code of its own (auto_map), which is not executed")
    if fields.get("fast_tokenizer_files"):
        raise ValueError("tokenizer_config.json's fast_tokenizer_files, a file for each version, is not supported")
    name = fields.get("tokenizer_class") or read_fields(folder, "config.json").get("tokenizer_class")
    kind = str(name or "BartTokenizer").removesuffix("Fast")
    if kind not in (*BYTE_LEVEL, *ANY_BACKEND):
        raise ValueError(
            f"tokenizer_class {name!r} is not supported: it is none of {', '.join([*BYTE_LEVEL, *ANY_BACKEND])}; "
            "PreTrainedTokenizerFast in tokenizer_config.json reads tokenizer.json as it stands"
        )
    return kind


def read_backend(folder: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"the tokenizer's files are damaged: tokenizer.json: {error}") from error


def byte_level_bpe(folder: Path) -> Tokenizer:
    """vocab.json and merges.txt.

    transformers 4 drops the first line of merges.txt whatever it is, and a last line without a line end; transformers 5
    reads both. Where that would lose a merge the file is refused.
    """
    try:
        text = (folder / "merges.txt").read_text(encoding="utf-8")
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        header, *lines = text.split("\n")
        tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(line.split()) for line in lines[:-1]]))  # type: ignore[misc]
    except Exception as error:  # as above
        raise ValueError(f"the tokenizer's files are damaged: vocab.json and merges.txt: {error}") from error
    if not header.startswith("#version") or lines[-1:] != [""]:
        raise ValueError(
            "merges.txt does not begin with a line '#version' or does not end with a line end: transformers 4 and 5 "
            f"read different merges there{SAVE_ANEW}"
        )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


# ── Tokens beside the vocabulary ──────────────────────────────────────────────────────────────────────────────────────


def as_token(value: Any, **flags: Any) -> Any:
    """A JSON object as AddedToken, lists element by element, anything else as it is."""
    if isinstance(value, dict):
        return AddedToken(**{name: flag for name, flag in value.items() if name not in ("__type", *flags)}, **flags)
    return [as_token(element, **flags) for element in value] if isinstance(value, list) else value


def added_tokens(
    folder: Path, fields: dict[str, Any], backend: Tokenizer | None
) -> tuple[dict[int, AddedToken], dict[str, Any]]:
    """Tokens that the vocabulary may lack, by id, and tokenizer_config.json with the special tokens that hold.

    Since transformers 4.34 tokenizer_config.json has them all in added_tokens_decoder, and the older files are not
    looked at. Before, special_tokens_map.json had the names and added_tokens.json the ids
    (PreTrainedTokenizerBase._from_pretrained).
    """
    fields = {**fields}
    for name in (*DEFAULTS, "additional_special_tokens"):
        if name in fields:
            fields[name] = as_token(fields[name])
    if "added_tokens_decoder" in fields:
        added = {int(i): as_token(token) for i, token in fields["added_tokens_decoder"].items()}
        by_content = {str(token): token for token in added.values()}
    else:
        added, by_content = {}, {}
        for name, value in read_fields(folder, "special_tokens_map.json").items():
            token = as_token(value, special=True)
            if name == "additional_special_tokens":
                before = fields.get(name) or []
                token = [*before, *(t for t in token if t not in before)]
            fields[name] = token
        special = {str(fields[name]) for name in DEFAULTS if fields.get(name)}
        special |= {str(token) for token in fields.get("additional_special_tokens") or []}
        for content, i in read_fields(folder, "added_tokens.json").items():
            flag = content in special
            added[i] = AddedToken(content, lstrip=False, rstrip=False, normalized=not flag, special=flag)
        if backend is not None:
            in_json = backend.get_added_tokens_decoder()
            added |= in_json
            by_content = {str(token): token for token in in_json.values()}
    for name in DEFAULTS:
        if fields.get(name) is not None:
            fields[name] = by_content.get(str(fields[name]), fields[name])
    return dict(sorted(added.items())), fields


def special_tokens(fields: Mapping[str, Any], kind: str, from_json: bool) -> dict[str, list[Token]]:
    """The special tokens by their names, as the constructors of transformers 4.57.6 complete them."""
    named: dict[str, list[Token]] = {}
    for name in DEFAULTS:
        token = fields.get(name, None if kind in ANY_BACKEND else DEFAULTS[name])
        if isinstance(token, str) and kind in BYTE_LEVEL:
            if name == "mask_token":  # it takes the space before it, as in training
                token = AddedToken(token, lstrip=True, normalized=kind == "BartTokenizer", special=from_json)
            elif not from_json:
                token = AddedToken(token, normalized=True)
        if token is not None:
            named[name] = [token]
    other = fields.get("extra_special_tokens") or {}  # a mapping in transformers 4, a list in 5
    other = other if isinstance(other, dict) else {f"extra {i}": token for i, token in enumerate(other)}
    named["additional_special_tokens"] = fields.get("additional_special_tokens") or []
    return named | {name: [as_token(token)] for name, token in other.items()}


def add_tokens(tokenizer: Tokenizer, added: Mapping[int, AddedToken], named: Mapping[str, list[Token]]) -> None:
    """Give the tokenizer its added tokens in the order of PreTrainedTokenizerFast.__init__.

    ValueError if a token gets another id than the folder's files give it.
    """
    before = list(tokenizer.get_added_tokens_decoder().values())
    contents = {str(token) for token in (*before, *added.values())}
    tokens, names = list(added.values()), set[str]()
    for special in named.values():
        for token in [token for token in special if str(token) not in names]:  # the flags of a token's first name
            names.add(str(token))
            if isinstance(token, AddedToken):
                tokens.append(token)
            elif token not in contents:
                tokens.append(AddedToken(token, special=True))
    for token in tokens:
        token.special = token.special or str(token) in names
    tokenizer.add_tokens([token for token in tokens if token not in before])  # a token's last flags hold
    for i, token in added.items():
        if tokenizer.token_to_id(str(token)) != i:
            raise ValueError(
                f"the files give the added token {str(token)!r} the id {i}, transformers' fast tokenizer "
                f"{tokenizer.token_to_id(str(token))}: ids with gaps, or of the vocabulary, are not supported"
            )


def special_id(tokenizer: Tokenizer, named: Mapping[str, list[Token]], name: str) -> tuple[str, int]:
    token = str(*named.get(name, []))
    i = tokenizer.token_to_id(token)
    if i is None:
        raise ValueError(f"{name} is not set: without it a text has no start or end")
    return token, i


def set_prefix_space(tokenizer: Tokenizer, fields: Mapping[str, Any], kind: str) -> None:
    """add_prefix_space and trim_offsets of tokenizer_config.json, or of the class, instead of tokenizer.json's."""
    if kind == "TokenizersBackend":
        return
    space = bool(fields.get("add_prefix_space", False))
    state = json.loads(tokenizer.pre_tokenizer.__getstate__()) if tokenizer.pre_tokenizer else {}
    if state.get("type") == "ByteLevel" and state["add_prefix_space"] != space:
        if kind in ANY_BACKEND and "add_prefix_space" not in fields:
            raise ValueError(
                "tokenizer.json puts a space before a text, which transformers 4 does not do here and 5 does: say "
                "add_prefix_space in tokenizer_config.json"
            )
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=space, trim_offsets=state["trim_offsets"], use_regex=state.get("use_regex", True)
        )
    state = json.loads(tokenizer.post_processor.__getstate__()) if tokenizer.post_processor else {}
    if state.get("type") == "RobertaProcessing" and kind in BYTE_LEVEL:
        trim = bool(fields.get("trim_offsets", True))
        sep, cls = tuple(state["sep"]), tuple(state["cls"])
        tokenizer.post_processor = processors.RobertaProcessing(sep, cls, trim, space)
