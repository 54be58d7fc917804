"""The class of a pipeline's `tokenizer`: transformers' methods, computed by the tokenizers library."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from bart_inference.tokenization import encode, pad
from bart_inference.tokenizer_files import load_tokenizer, read_fields

UNLIMITED = int(1e30)  # transformers' model_max_length if the tokenizer's files have none
STRATEGIES = ("longest_first", "only_first", "only_second", "do_not_truncate")
PADDINGS = (False, True, "longest", "max_length", "do_not_pad")
# Arguments of transformers' tokenizers, with the values that change nothing here.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "is_split_into_words": (False,),
    "padding_side": (None, "right"),
    "return_attention_mask": (None, True),
    "return_length": (False,),
    "return_offsets_mapping": (False,),
    "return_overflowing_tokens": (False,),
    "return_special_tokens_mask": (False,),
    "return_token_type_ids": (None, False),
    "split_special_tokens": (None, False),
    "verbose": (False, True),
}
SPECIAL_TOKENS = {
    "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
    "pad_token": "<pad>", "mask_token": "<mask>",
}  # fmt: skip


class Encoded(NamedTuple):
    """The token ids of a text or a pair of texts (a row of a batch), and their mask."""

    ids: list[int]
    mask: list[int]  # 1 for tokens, 0 for padding

    def padded(self, length: int, pad_id: int) -> Encoded:
        """The row with padding behind it, `length` tokens in all."""
        padding = length - len(self.ids)
        return Encoded(self.ids + [pad_id] * padding, self.mask + [0] * padding)


def pad_rows(rows: Sequence[Encoded], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """input_ids and attention_mask of a batch, int32 (B,S), padded on the right to the longest row."""
    ids, _ = pad([row.ids for row in rows], pad_id)
    mask, _ = pad([row.mask for row in rows], 0)
    return ids, mask


class PipelineTokenizer:
    """Text to tokens and back, with transformers' arguments.

    Special tokens and their ids are attributes, such as mask_token and mask_token_id. The id is None if the vocabulary
    lacks the token.
    """

    is_fast = True
    padding_side = truncation_side = "right"
    model_input_names = ("input_ids", "attention_mask")

    def __init__(
        self,
        backend: Tokenizer,
        model_max_length: int | None = None,
        clean_up_tokenization_spaces: bool = False,
        special_tokens: dict[str, str] | None = None,
    ):
        """model_max_length: the number of tokens to which `truncation=True` shortens a text; None: no limit."""
        self.backend_tokenizer = backend
        self.model_max_length = UNLIMITED if model_max_length is None else model_max_length
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.special_tokens_map = SPECIAL_TOKENS | (special_tokens or {})
        self._truncating: Tokenizer | None = None  # a copy, whose truncation each call sets anew
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        """A special token or its id, such as bos_token and bos_token_id."""
        tokens: dict[str, str] = self.__dict__.get("special_tokens_map", {})
        if name in tokens:
            return tokens[name]
        if name.endswith("_id") and name.removesuffix("_id") in tokens:
            return self.backend_tokenizer.token_to_id(tokens[name.removesuffix("_id")])
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def vocab_size(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=False))

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size())

    def get_vocab(self) -> dict[str, int]:
        vocab: dict[str, int] = self.backend_tokenizer.get_vocab()
        return vocab

    def encoding(
        self,
        text: str,
        pair: str | None = None,
        add_special_tokens: bool = True,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
    ) -> Encoding:
        """The tokenizers library's Encoding of a text or a pair, truncated as transformers does it.

        truncation: True or the name of a strategy. max_length: in tokens, special ones included; by default
        model_max_length. stride: the number of tokens that a window shares with the one before.
        ValueError for an argument that is not a text, an unknown strategy, or a stride as large as a window. The
        library raises Exception if the text that the strategy truncates has too few tokens to remove.
        """
        for name, value in (("text", text), ("text_pair", pair)):
            if not isinstance(value, str) and (name == "text" or value is not None):
                raise ValueError(f"{name} must be a text, got {type(value).__name__}: {value!r}")
        strategy = truncation_strategy(truncation)
        limit = self.model_max_length if max_length is None else max_length
        if strategy is None or limit >= UNLIMITED:
            return encode(self.backend_tokenizer, text, pair, add_special_tokens)
        with self._lock:
            if self._truncating is None:
                self._truncating = Tokenizer.from_str(self.backend_tokenizer.to_str())
            self._truncating.enable_truncation(limit, stride=stride, strategy=strategy)
            return encode(self._truncating, text, pair, add_special_tokens)

    def row(
        self,
        text: Any = None,
        text_pair: Any = None,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        **options: Any,
    ) -> Encoded:
        """The row of a text or a pair. options: further arguments of `encoding`, and names of WITHOUT_EFFECT.

        As in transformers, max_length truncates where neither padding nor truncation is stated.
        """
        padding = padding_strategy(padding)
        for name, values in WITHOUT_EFFECT.items():
            if name in options and options.pop(name) not in values:
                raise TypeError(f"{name} must be one of {values}, or be left out")
        if max_length is not None and padding is False and truncation is None:
            truncation = "longest_first"
        ids = self.encoding(text, text_pair, truncation=truncation, max_length=max_length, **options).ids
        length = len(ids)
        if padding == "max_length":
            limit = max_length or self.model_max_length
            length = max(length, limit if limit < UNLIMITED else length)
        if padding and pad_to_multiple_of:
            length = -(-length // pad_to_multiple_of) * pad_to_multiple_of
        return Encoded(ids, [1] * len(ids)).padded(length, self.pad_token_id)

    def __call__(
        self, text: str | Sequence[str], text_pair: Any = None, return_tensors: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """{"input_ids": …, "attention_mask": …}: lists for a text, lists of lists for a list.

        return_tensors="np" gives arrays (B,S); the rows of a list then need padding=True. options: those of `row`.
        """
        if return_tensors not in (None, "np"):
            raise ValueError(f"return_tensors must be 'np' or None, got {return_tensors!r}")
        if isinstance(text, str):
            rows = [self.row(text, text_pair, **options)]
        else:
            texts = list(text)
            pairs = list(text_pair or [None] * len(texts))
            rows = [self.row(item, pair, **options) for item, pair in zip(texts, pairs, strict=True)]
        if options.get("padding"):
            length = max((len(row.ids) for row in rows), default=0)
            rows = [row.padded(length, self.pad_token_id) for row in rows]
        ids, masks = [row.ids for row in rows], [row.mask for row in rows]
        if return_tensors == "np":
            return {"input_ids": np.array(ids), "attention_mask": np.array(masks)}
        if isinstance(text, str):
            return {"input_ids": ids[0], "attention_mask": masks[0]}
        return {"input_ids": ids, "attention_mask": masks}

    def encode(self, text: str, text_pair: str | None = None, **options: Any) -> list[int]:
        return self.row(text, text_pair, **options).ids

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        tokens: list[str] = self.encoding(text, pair, add_special_tokens).tokens
        return tokens

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """A token for an id, a list of tokens for a list; None for an id that is not in the vocabulary."""
        if isinstance(ids, (int, np.integer)):
            return self.backend_tokenizer.id_to_token(int(ids))
        return [self.backend_tokenizer.id_to_token(int(i)) for i in ids]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """An id for a token, a list of ids for a list; the unknown token's id for one that is not in the vocabulary."""
        if isinstance(tokens, str):
            token_id = self.backend_tokenizer.token_to_id(tokens)
            return self.unk_token_id if token_id is None else token_id
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """The text of one row of ids. White space at its ends is kept."""
        ids = [int(i) for i in np.atleast_1d(np.asarray(token_ids))]
        text = self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return clean_up(text) if clean_up_tokenization_spaces else text

    def batch_decode(self, rows: Any, **options: Any) -> list[str]:
        return [self.decode(row, **options) for row in rows]


def truncation_strategy(truncation: Any) -> str | None:
    """The tokenizers library's name of a truncation strategy; None for no truncation."""
    if truncation is None or truncation is False:
        return None
    name = "longest_first" if truncation is True else strategy_name(truncation)
    if name not in STRATEGIES:
        raise ValueError(f"truncation must be a bool or one of {STRATEGIES}, got {truncation!r}")
    return None if name == "do_not_truncate" else name


def padding_strategy(padding: Any) -> bool | str:
    """A padding argument as one of PADDINGS; ValueError for an unknown one."""
    name = strategy_name(padding)
    if name not in PADDINGS:
        raise ValueError(f"padding must be one of {PADDINGS}, got {padding!r}")
    strategy: bool | str = name
    return strategy


def strategy_name(value: Any) -> Any:
    """The name of a strategy that is given by its name, or by a member of one of transformers' enumerations."""
    return getattr(value, "value", value)


def clean_up(text: str) -> str:
    """The text without spaces before punctuation and contractions (transformers 4, clean_up_tokenization)."""
    for mark in (".", "?", "!", ","):
        text = text.replace(f" {mark}", mark)
    text = text.replace(" ' ", "'")
    for ending in ("n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(f" {ending}", ending)
    return text


def from_folder(folder: Path, **overrides: Any) -> PipelineTokenizer:
    """The tokenizer of a folder; OSError if it has none. overrides: fields that replace tokenizer_config.json's."""
    backend = load_tokenizer(folder)
    if backend is None:
        raise OSError(f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
    fields = read_fields(folder, "special_tokens_map.json") | read_fields(folder, "tokenizer_config.json") | overrides
    special: dict[str, str] = {}
    for name in SPECIAL_TOKENS:
        token = fields.get(name)
        if token:
            special[name] = token["content"] if isinstance(token, dict) else token
    limit = fields.get("model_max_length")
    clean = bool(fields.get("clean_up_tokenization_spaces", False))
    return PipelineTokenizer(backend, None if limit is None else int(limit), clean, special)


def from_object(tokenizer: Any) -> PipelineTokenizer:
    """A PipelineTokenizer from one, from a `tokenizers.Tokenizer` or from transformers' fast tokenizer.

    ValueError for anything else.
    """
    if isinstance(tokenizer, PipelineTokenizer):
        return tokenizer
    if isinstance(tokenizer, Tokenizer):
        return PipelineTokenizer(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ValueError(
            "tokenizer must be a folder, a hub id, a tokenizers.Tokenizer or a fast tokenizer of transformers, got "
            f"{type(tokenizer).__name__}: save it with save_pretrained and give the folder"
        )
    copy = Tokenizer.from_str(backend.to_str())  # a copy, because padding and truncation may be switched on in it
    copy.no_padding()
    copy.no_truncation()
    special = {name: str(getattr(tokenizer, name)) for name in SPECIAL_TOKENS if getattr(tokenizer, name, None)}
    limit = getattr(tokenizer, "model_max_length", None)
    clean = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
    return PipelineTokenizer(copy, None if limit is None else int(limit), clean, special)
