"""Conversion of BERT, RoBERTa and T5 loses nothing, accepts the forms that checkpoints have, and refuses others.

These tests are about the names of tensors. Tensors are converted by BART's functions: see tests/model/test_convert.py.
"""

import dataclasses
from typing import Any

import bert_oneliner
import numpy as np
import pytest
import t5_oneliner
import torch
from transformers import BertConfig, BertForPreTraining, BertModel, RobertaConfig, RobertaForMaskedLM, T5Config

from tests.model.test_convert import assert_same, changed, without
from tests.relatives.twins import (
    FAMILIES,
    TINY_BERT,
    TINY_T5,
    batch,
    logits,
    model,
    of,
    ours,
    state_dict,
    theirs,
    torch_logits,
    twin,
)
from tests.twins import assert_close, randomize

COPIES = {  # parameters that are copies of the embedding or of the head's bias
    "bert": {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"},
    "roberta": {"lm_head.decoder.weight", "lm_head.decoder.bias"},
    "t5": {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"},
    "t5-v1.1": {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_of_pytorch_survives_the_round_trip(name: str) -> None:
    """PyTorch loads the result: only copies of tied parameters are missing, and nothing is unexpected."""
    a = twin(name)
    state = a.family.page.revert(a.params, a.config)
    assert_same(state, without(state_dict(a.torch), *COPIES[name]))
    assert_same(a.family.page.convert(state, a.config), a.params)
    fresh = model(name).eval()
    result = fresh.load_state_dict({name: torch.tensor(array) for name, array in state.items()}, strict=False)
    assert set(result.missing_keys) == COPIES[name] and not result.unexpected_keys
    x = batch(a)
    assert_close(torch_logits(a._replace(torch=fresh), x), torch_logits(a, x), 0, "logits after the round trip")


def renamed(state: dict[str, Any], *pairs: tuple[str, str]) -> dict[str, Any]:
    for old, new in pairs:
        state = {name.replace(old, new): array for name, array in state.items()}
    return state


POSITIONS = np.arange(48)[None]
ACCEPTED = {
    "bert: no prefix": ("bert", lambda s: renamed(s, ("bert.", ""))),
    "bert: gamma and beta": (
        "bert",
        lambda s: renamed(s, ("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")),
    ),
    "bert: position_ids": ("bert", lambda s: s | {"bert.embeddings.position_ids": POSITIONS}),
    "bert: no copies": ("bert", lambda s: without(s, *COPIES["bert"])),
    "bert: only the head's copies": (
        "bert",
        lambda s: without(s, "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"),
    ),
    "roberta: no prefix": ("roberta", lambda s: renamed(s, ("roberta.", ""))),
    "roberta: position_ids": ("roberta", lambda s: s | {"roberta.embeddings.position_ids": POSITIONS}),
    "roberta: no copies": ("roberta", lambda s: without(s, *COPIES["roberta"])),
    "t5: no copies": ("t5", lambda s: without(s, *COPIES["t5"])),
    "t5: only the head": ("t5", lambda s: without(s, "shared.weight", *(COPIES["t5"] - {"lm_head.weight"}))),
    "t5: the old bias of cross-attention": (
        "t5",
        lambda s: s | {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": np.ones((10, 4))},
    ),
    "t5 v1.1: no copies": ("t5-v1.1", lambda s: without(s, *COPIES["t5-v1.1"])),
    "t5 v1.1: only the encoder's embedding": (
        "t5-v1.1",
        lambda s: without(s, "shared.weight", "decoder.embed_tokens.weight"),
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_checkpoints_come_in_several_forms(case: str) -> None:
    name, change = ACCEPTED[case]
    a = twin(name)
    state = change(state_dict(a.torch))
    assert state.keys() != state_dict(a.torch).keys(), "the case changes no tensor's name"
    assert_same(a.family.page.convert(state, a.config), a.params)


@pytest.mark.parametrize("cls", [BertForPreTraining, BertModel])
def test_pooler_and_next_sentence_are_converted_and_come_back(cls: Any) -> None:
    """bert-base-uncased's file has the parameters of BertForPreTraining, a sentence encoder's those of BertModel."""
    torch_model = cls(BertConfig(**TINY_BERT))
    randomize(torch_model)
    state = state_dict(torch_model)
    config = bert_oneliner.Config.from_json(torch_model.config.to_dict())
    params = bert_oneliner.convert(state, config)
    assert ("next_sentence" in params) == ("lm_head" in params) == (cls is BertForPreTraining)
    assert params["pooler"]["weight"].shape == (24, 24)
    assert_same(bert_oneliner.revert(params, config), without(state, *COPIES["bert"]))


FC1, Q = "bert.encoder.layer.1.intermediate.dense.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"
BIAS = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
REFUSED = {
    "bert: a missing layer": (
        "bert",
        lambda s: without(s, FC1),
        "no tensor 'encoder.layer.1.intermediate.dense.weight'",
    ),
    "bert: a layer too many": ("bert", lambda s: s | {FC1.replace(".1.", ".3."): s[FC1]}, r"encoder.layer.3.intermed"),
    "bert: a transposed matrix": ("bert", lambda s: changed(s, FC1, np.transpose), r"shape \(24, 40\).*\(40, 24\)"),
    "bert: another head's bias": (
        "bert",
        lambda s: changed(s, "cls.predictions.decoder.bias", lambda a: a + 1),
        "cls.predictions.decoder.bias differs from cls.predictions.bias",
    ),
    "bert: an untied head": (
        "bert",
        lambda s: changed(s, "cls.predictions.decoder.weight", np.negative),
        "decoder.weight differs from embeddings.word_embeddings.weight",
    ),
    "bert: half a head": ("bert", lambda s: without(s, "cls.predictions.transform.dense.bias"), "transform.dense.bias"),
    "bert: a classifier": ("bert", lambda s: s | {"classifier.bias": np.ones(2)}, "classifier.bias"),
    "roberta: bert's head": ("roberta", lambda s: s | {"cls.predictions.bias": np.ones(99)}, "cls.predictions.bias"),
    "t5: a missing bias": ("t5", lambda s: without(s, BIAS), f"no tensor '{BIAS}'"),
    "t5: a bias of another shape": ("t5", lambda s: changed(s, BIAS, np.transpose), r"shape \(4, 10\).*\(10, 4\)"),
    "t5: an untied head": ("t5", lambda s: changed(s, "lm_head.weight", np.negative), "tie_word_embeddings=False"),
    "t5: an untied encoder": ("t5", lambda s: changed(s, "encoder.embed_tokens.weight", np.negative), "differs from"),
    "t5: a bias on a projection": ("t5", lambda s: s | {Q.replace("weight", "bias"): np.ones(20)}, "q.bias"),
    "t5: a gate": ("t5", lambda s: renamed(s, ("DenseReluDense.wi.", "DenseReluDense.wi_0.")), r"DenseReluDense.wi.w"),
    "t5 v1.1: no head": ("t5-v1.1", lambda s: without(s, "lm_head.weight"), "no tensor 'lm_head.weight'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(case: str) -> None:
    name, break_it, message = REFUSED[case]
    a = twin(name)
    with pytest.raises(ValueError, match=message):
        a.family.page.convert(break_it(state_dict(a.torch)), a.config)


# ── Config ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "ours,theirs", [(bert_oneliner.Config(), BertConfig()), (t5_oneliner.Config(), T5Config())], ids=["bert", "t5"]
)
def test_defaults_are_transformers(ours: Any, theirs: Any) -> None:
    for field in dataclasses.fields(ours):
        if field.name not in ("decoder_start_token_id", "num_decoder_layers"):  # T5Config() has no such field and 6
            assert getattr(ours, field.name) == getattr(theirs, field.name), field.name


def test_robertas_padding_id_is_1_if_the_file_does_not_have_it() -> None:
    fields = {name: value for name, value in RobertaConfig().to_dict().items() if name != "pad_token_id"}
    assert bert_oneliner.Config.from_json(fields).pad_token_id == RobertaConfig().pad_token_id == 1


@pytest.mark.parametrize(
    "fields",
    [{}, {"tie_word_embeddings": False}, {"tie_word_embeddings": True, "scale_decoder_outputs": False}],
    ids=["T5 of 2019", "v1.1", "v1.1 as transformers 5 writes it"],
)
def test_the_scale_before_t5s_head_is_that_of_transformers(fields: dict[str, Any]) -> None:
    """transformers infers from tie_word_embeddings if there is a scale; version 5 also writes it to config.json."""
    ours = t5_oneliner.Config.from_json({"model_type": "t5", **fields})
    assert ours.scale_decoder_outputs == T5Config(**fields).scale_decoder_outputs
    assert ours.tie_word_embeddings == fields.get("tie_word_embeddings", True)


def test_transformers_5_ties_the_head_of_a_fresh_v1_1() -> None:
    """It ties even if tie_word_embeddings is false. A T5 of ours with a tied, unscaled head has the same logits."""
    fields = TINY_T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    fresh = FAMILIES["t5-v1.1"].model(T5Config(**fields))
    assert fresh.lm_head.weight is fresh.shared.weight and not fresh.config.scale_decoder_outputs
    randomize(fresh)
    a = of("t5-v1.1", fresh)
    assert a.config.tie_word_embeddings and not a.config.scale_decoder_outputs and "lm_head" not in a.params
    x = batch(a)
    assert_close(logits(a, x), torch_logits(a, x), 5e-6, "logits")
    mine, reference = ours(a, x)[1], theirs(a, x)[1]
    assert_close(mine["shared"], reference["shared"], 1e-5, "gradient of the tied head")


@pytest.mark.parametrize(
    "page,fields,message",
    [
        (bert_oneliner, {"model_type": "bart"}, "model_type 'bart' is not supported"),
        (bert_oneliner, {}, "model_type None is not supported"),
        (bert_oneliner, {"model_type": "bert", "position_embedding_type": "relative_key"}, "'relative_key' is not"),
        (bert_oneliner, {"model_type": "bert", "is_decoder": True}, "is_decoder=true"),
        (bert_oneliner, {"model_type": "bert", "add_cross_attention": True}, "add_cross_attention=true"),
        (bert_oneliner, {"model_type": "bert", "hidden_act": "mish"}, "hidden_act 'mish'"),
        (bert_oneliner, {"model_type": "bert", "num_attention_heads": 7}, "not divisible by num_attention_heads 7"),
        (bert_oneliner, {"model_type": "bert", "type_vocab_size": 0}, "type_vocab_size must be at least 1"),
        (t5_oneliner, {"model_type": "mt5"}, "model_type 'mt5' is not supported"),
        (t5_oneliner, {"model_type": "t5", "feed_forward_proj": "gated-mish"}, "'gated-mish' is not one of"),
        (t5_oneliner, {"model_type": "t5", "feed_forward_proj": "relu-gated"}, "'relu-gated' is not one of"),
        (t5_oneliner, {"model_type": "t5", "d_kv": 0}, "d_kv must be at least 1"),
        (t5_oneliner, {"model_type": "t5", "num_decoder_layers": 0}, "num_decoder_layers must be at least 1"),
        (t5_oneliner, {"model_type": "t5", "relative_attention_num_buckets": 2}, "num_buckets 2 must be at least 4"),
        (t5_oneliner, {"model_type": "t5", "relative_attention_max_distance": 16}, "max_distance 16 above half"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_architecture_is_refused_by_name(page: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        page.Config.from_json(fields)


def test_robertas_head_has_other_names_than_berts() -> None:
    torch_model = RobertaForMaskedLM(RobertaConfig(**TINY_BERT))
    config = bert_oneliner.Config.from_json(torch_model.config.to_dict())
    names = bert_oneliner.revert(bert_oneliner.convert(state_dict(torch_model), config), config)
    assert {"lm_head.bias", "lm_head.layer_norm.weight", "roberta.embeddings.LayerNorm.bias"} <= names.keys()
