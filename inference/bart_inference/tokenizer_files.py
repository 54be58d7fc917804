"""Reads tokenizer files of any age, so that a text has the tokens that transformers 4.57.6's fast tokenizers give it.

The vocabulary is in tokenizer.json, or in vocab.json and merges.txt. tokenizer_config.json says how it is used; in
folders from before 2023 special_tokens_map.json and added_tokens.json do so too. docs/checkpoints.md lists what is
refused. Imports no jax.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

Token = str | AddedToken
DEFAULTS = {  # BartTokenizerFast.__init__
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
    "cls_token": "<s>", "mask_token": "<mask>",
}  # fmt: skip
BYTE_LEVEL = ("BartTokenizer", "RobertaTokenizer")  # both read vocab.json and merges.txt in the same way
ANY_BACKEND = ("PreTrainedTokenizer", "TokenizersBackend")  # classes that add nothing to what tokenizer.json says
OTHER_VOCABULARIES = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "encoder.json")
SAVE_ANEW = "; if transformers reads the folder as it was trained, its save_pretrained writes a tokenizer.json"


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The folder's tokenizer, which neither pads nor truncates by itself; None if it has no vocabulary.

    ValueError for files that are damaged, or whose tokens transformers would not reproduce.
    """
    names = {path.name for path in folder.iterdir()}
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        if incomplete := sorted(names & {"vocab.json", "merges.txt", *OTHER_VOCABULARIES}):
            raise ValueError(f"the tokenizer is incomplete: the folder has only {', '.join(incomplete)}{SAVE_ANEW}")
        return None
    fields = read_fields(folder, "tokenizer_config.json")
    kind = tokenizer_class(folder, fields)
    backend = read_backend(folder) if "tokenizer.json" in names else None
    if backend is None and kind not in BYTE_LEVEL:
        raise ValueError(f"tokenizer_class {kind} needs a tokenizer.json")
    if "added_tokens_decoder" in fields:
        added, fields = added_tokens_of_config(fields)
    else:
        added, fields = added_tokens_of_old_files(folder, fields, backend)
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


def save_tokenizer(tokenizer: Tokenizer, folder: Path, model_max_length: int) -> None:
    """Write tokenizer.json, and the tokenizer_config.json with which transformers and `load_tokenizer` read it alike.

    model_max_length: the number of tokens to which transformers truncates a text.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    splitter, template = state_of(tokenizer.pre_tokenizer), state_of(tokenizer.post_processor)
    is_byte_level = splitter.get("type") == "ByteLevel"
    has_roberta_template = template.get("type") == "RobertaProcessing"
    is_standard = is_byte_level and has_roberta_template and tokenizer.normalizer is None
    special = {str(token) for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    fields: dict[str, Any] = {}
    for name, token in DEFAULTS.items():
        # transformers adds the special tokens of its class to a tokenizer that lacks them, unless the file says null.
        fields[name] = token if token in special else None
    fields["tokenizer_class"] = "BartTokenizer" if is_standard else "PreTrainedTokenizerFast"
    if has_roberta_template:
        start, end = template["cls"][0], template["sep"][0]
        fields |= {"cls_token": start, "bos_token": start, "sep_token": end, "eos_token": end}
        fields["trim_offsets"] = template["trim_offsets"]
    if is_byte_level:
        fields["add_prefix_space"] = splitter["add_prefix_space"]
    fields["model_max_length"] = model_max_length
    if tokenizer.encode_special_tokens:
        fields["split_special_tokens"] = True
    (folder / "tokenizer_config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def state_of(component: Any) -> dict[str, Any]:
    """The settings of a tokenizer's component as tokenizer.json has them; empty if there is no such component."""
    settings: dict[str, Any] = json.loads(component.__getstate__()) if component else {}
    return settings


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
    """The name of the tokenizer's class without "Fast", from tokenizer_config.json, else config.json, else BART's."""
    if "AutoTokenizer" in (fields.get("auto_map") or {}):
        raise ValueError("tokenizer_config.json names Python code (auto_map), which is not executed")
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
    """The tokenizer in tokenizer.json."""
    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"the tokenizer's files are damaged: tokenizer.json: {error}") from error


def byte_level_bpe(folder: Path) -> Tokenizer:
    """A tokenizer from vocab.json and merges.txt.

    transformers 4 drops the first line of merges.txt, whatever it holds, and a last line without a newline character;
    transformers 5 reads both lines. A file in which one of these lines is a merge is refused.
    """
    try:
        text = (folder / "merges.txt").read_text(encoding="utf-8")
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        header, *lines = text.split("\n")
        merges: list[Any] = [tuple(line.split()) for line in lines[:-1]]
        tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"the tokenizer's files are damaged: vocab.json and merges.txt: {error}") from error
    if not header.startswith("#version") or lines[-1:] != [""]:
        raise ValueError(
            "merges.txt does not begin with a line '#version' or does not end with a newline: transformers 4 and 5 "
            f"read different merges from it{SAVE_ANEW}"
        )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


# ── Tokens beside the vocabulary ──────────────────────────────────────────────────────────────────────────────────────


def as_token(value: Any, **overrides: Any) -> Any:
    """A JSON object as an AddedToken, a list with as_token of each element, any other value as it is.

    overrides: flags of the AddedToken that replace those of the object.
    """
    if isinstance(value, list):
        return [as_token(element, **overrides) for element in value]
    if not isinstance(value, dict):
        return value
    flags = {**value, **overrides}
    flags.pop("__type", None)  # transformers marks the object with its Python class
    return AddedToken(**flags)


def added_tokens_of_config(fields: Mapping[str, Any]) -> tuple[dict[int, AddedToken], dict[str, Any]]:
    """The tokens beside the vocabulary by id, and tokenizer_config.json's fields with special tokens as AddedTokens.

    Since transformers 4.34 tokenizer_config.json has all of these tokens in added_tokens_decoder, and
    special_tokens_map.json and added_tokens.json are not read.
    """
    fields = with_tokens(fields)
    added = {int(i): as_token(token) for i, token in fields["added_tokens_decoder"].items()}
    return dict(sorted(added.items())), resolve_special_tokens(fields, added.values())


def added_tokens_of_old_files(
    folder: Path, fields: Mapping[str, Any], backend: Tokenizer | None
) -> tuple[dict[int, AddedToken], dict[str, Any]]:
    """The result of added_tokens_of_config for a folder that transformers before 4.34 wrote.

    In such a folder special_tokens_map.json has the special tokens, added_tokens.json the ids of added tokens, and
    tokenizer.json may have tokens of both kinds (PreTrainedTokenizerBase._from_pretrained).
    """
    fields = with_tokens(fields)
    for name, value in read_fields(folder, "special_tokens_map.json").items():
        token = as_token(value, special=True)
        if name == "additional_special_tokens":
            earlier = fields.get(name) or []
            token = [*earlier, *(element for element in token if element not in earlier)]
        fields[name] = token
    special = {str(fields[name]) for name in DEFAULTS if fields.get(name)}
    special |= {str(token) for token in fields.get("additional_special_tokens") or []}
    added = {}
    for content, i in read_fields(folder, "added_tokens.json").items():
        is_special = content in special
        added[i] = AddedToken(content, lstrip=False, rstrip=False, normalized=not is_special, special=is_special)
    in_json = backend.get_added_tokens_decoder() if backend is not None else {}
    added |= in_json
    return dict(sorted(added.items())), resolve_special_tokens(fields, in_json.values())


def with_tokens(fields: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json's fields, where the JSON objects of special tokens are replaced by AddedTokens."""
    fields = {**fields}
    for name in (*DEFAULTS, "additional_special_tokens"):
        if name in fields:
            fields[name] = as_token(fields[name])
    return fields


def resolve_special_tokens(fields: dict[str, Any], added: Iterable[AddedToken]) -> dict[str, Any]:
    """The fields, with each special token replaced by the added token of the same content, which has its own flags."""
    by_content = {str(token): token for token in added}
    for name in DEFAULTS:
        if fields.get(name) is not None:
            fields[name] = by_content.get(str(fields[name]), fields[name])
    return fields


def special_tokens(fields: Mapping[str, Any], kind: str, from_json: bool) -> dict[str, list[Token]]:
    """The special tokens by their names, with the defaults and flags that transformers 4.57.6's constructors set.

    from_json: whether the tokenizer was read from tokenizer.json.
    """
    named: dict[str, list[Token]] = {}
    for name in DEFAULTS:
        token = fields.get(name, None if kind in ANY_BACKEND else DEFAULTS[name])
        if isinstance(token, str) and kind in BYTE_LEVEL:
            if name == "mask_token":  # <mask> includes the space before it, as in BART's training
                token = AddedToken(token, lstrip=True, normalized=kind == "BartTokenizer", special=from_json)
            elif not from_json:
                token = AddedToken(token, normalized=True)
        if token is not None:
            named[name] = [token]
    named["additional_special_tokens"] = fields.get("additional_special_tokens") or []
    extra = fields.get("extra_special_tokens") or {}  # a mapping in transformers 4, a list in transformers 5
    if not isinstance(extra, dict):
        extra = {f"extra {i}": token for i, token in enumerate(extra)}
    for name, token in extra.items():
        named[name] = [as_token(token)]
    return named


def add_tokens(tokenizer: Tokenizer, added: Mapping[int, AddedToken], named: Mapping[str, list[Token]]) -> None:
    """Give the tokenizer its added tokens in the order of PreTrainedTokenizerFast.__init__.

    ValueError if a token gets another id than the folder's files give it.
    """
    present = list(tokenizer.get_added_tokens_decoder().values())
    contents = {str(token) for token in (*present, *added.values())}
    tokens = list(added.values())
    special: set[str] = set()
    for group in named.values():
        # A token can have several names: <s> is bos_token and cls_token. Then the flags of the first one count.
        new = [token for token in group if str(token) not in special]
        for token in new:
            special.add(str(token))
            if isinstance(token, AddedToken):
                tokens.append(token)
            elif token not in contents:
                tokens.append(AddedToken(token, special=True))
    for token in tokens:
        token.special = token.special or str(token) in special
    # If a token is in the list twice, the flags of the later one count.
    tokenizer.add_tokens([token for token in tokens if token not in present])
    for i, token in added.items():
        if tokenizer.token_to_id(str(token)) != i:
            raise ValueError(
                f"the files give the added token {str(token)!r} the id {i}, transformers' fast tokenizer "
                f"{tokenizer.token_to_id(str(token))}: ids with gaps, or of the vocabulary, are not supported"
            )


def special_id(tokenizer: Tokenizer, named: Mapping[str, list[Token]], name: str) -> tuple[str, int]:
    """The text and the id of the special token of that name; ValueError if the tokenizer lacks it."""
    token = str(*named.get(name, []))
    i = tokenizer.token_to_id(token)
    if i is None:
        raise ValueError(f"{name} is not set: without it a text has no start or end")
    return token, i


def set_prefix_space(tokenizer: Tokenizer, fields: Mapping[str, Any], kind: str) -> None:
    """Set add_prefix_space and trim_offsets as tokenizer_config.json says, or else the class, not as tokenizer.json."""
    if kind == "TokenizersBackend":
        return
    space = bool(fields.get("add_prefix_space", False))
    splitter = state_of(tokenizer.pre_tokenizer)
    if splitter.get("type") == "ByteLevel" and splitter["add_prefix_space"] != space:
        if kind in ANY_BACKEND and "add_prefix_space" not in fields:
            raise ValueError(
                "tokenizer.json puts a space before a text, which transformers 5 does and transformers 4 does not: set "
                "add_prefix_space in tokenizer_config.json"
            )
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=space, trim_offsets=splitter["trim_offsets"], use_regex=splitter.get("use_regex", True)
        )
    template = state_of(tokenizer.post_processor)
    if template.get("type") == "RobertaProcessing" and kind in BYTE_LEVEL:
        trim = bool(fields.get("trim_offsets", True))
        end, start = tuple(template["sep"]), tuple(template["cls"])
        tokenizer.post_processor = processors.RobertaProcessing(end, start, trim, space)
