"""Conversion loses nothing, accepts all forms of BART checkpoints, and names the tensor or field that it refuses."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BartConfig, BartForConditionalGeneration, BartForSequenceClassification

from bart_oneliner import Config, convert, forward, open_state, param_shapes, pytorch_name, revert, take_leaf
from tests.twins import BASE, LARGE, TINY, assert_close, batch, flat, randomize, torch_logits, twin

TIED_COPIES = {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"}


@st.composite
def fields(draw: st.DrawFn) -> dict[str, int]:
    """Sizes of a small BART, drawn independently of each other."""
    other_sizes = ("max_position_embeddings", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim")
    sizes = {"vocab_size": draw(st.integers(5, 9)), **{name: draw(st.integers(1, 9)) for name in other_sizes}}
    heads = {f"{side}_attention_heads": draw(st.sampled_from([1, 2, 3, 6])) for side in ("encoder", "decoder")}
    return {**sizes, **heads, "d_model": 6 * draw(st.integers(1, 3))}


def pytorch_shapes(fields: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of PyTorch's state dict, from a model on the device "meta", which has no memory."""
    with torch.device("meta"):
        model = BartForConditionalGeneration(BartConfig(**fields))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def random_params(config: Config, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(dtype), param_shapes(config))


def state_dict(**changes: Any) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in twin(**changes).torch.state_dict().items()}


def assert_same(a: Any, b: Any) -> None:
    """Two trees or state dicts have the same names, shapes, dtypes and bits."""
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    for name in a:
        x, y = np.asarray(a[name]), np.asarray(b[name])
        assert x.dtype == y.dtype and x.shape == y.shape, f"{name} is {x.dtype}{x.shape} and {y.dtype}{y.shape}"
        assert x.tobytes() == y.tobytes(), f"{name} differs"


@settings(max_examples=30, deadline=None)
@given(fields())
def test_names_and_shapes_are_pytorchs(fields: dict[str, int]) -> None:
    config = Config(**fields)
    ours = {name: a.shape for name, a in revert(random_params(config), config).items()}
    theirs = pytorch_shapes(fields)
    assert ours == {name: shape for name, shape in theirs.items() if name not in TIED_COPIES}


@pytest.mark.parametrize("shape", [BASE, LARGE, {**LARGE, "decoder_layers": 6}], ids=["base", "large", "distilbart"])
def test_published_shapes_have_as_many_parameters_as_pytorchs(shape: dict[str, Any]) -> None:
    ours = sum(leaf.size for leaf in jax.tree.leaves(param_shapes(Config(**shape))))
    assert ours == sum(math.prod(s) for name, s in pytorch_shapes(shape).items() if name not in TIED_COPIES)


@settings(max_examples=10, deadline=None)
@given(fields(), st.sampled_from([np.float16, np.float32, np.float64, ml_dtypes.bfloat16]))
def test_round_trips_are_exact_in_every_dtype(fields: dict[str, int], dtype: Any) -> None:
    config = Config(**fields)
    params = random_params(config, dtype)
    state = revert(params, config)
    assert_same(convert(state, config), params)
    assert_same(revert(convert(state, config), config), state)


def test_a_checkpoint_of_pytorch_survives_the_round_trip() -> None:
    """PyTorch loads the result: only copies of the embedding are missing, and nothing is unexpected."""
    a = twin()
    state = revert(a.params, a.config)
    original = {name: tensor.numpy() for name, tensor in a.torch.state_dict().items()}
    assert_same(state, {name: tensor for name, tensor in original.items() if name not in TIED_COPIES})
    fresh = BartForConditionalGeneration(a.torch.config).eval()
    result = fresh.load_state_dict({name: torch.tensor(array) for name, array in state.items()}, strict=False)
    assert set(result.missing_keys) == TIED_COPIES and not result.unexpected_keys
    x = batch(a.config)
    assert_close(torch_logits(a._replace(torch=fresh), x), torch_logits(a, x), 0, "logits after the round trip")


def without(state: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: array for name, array in state.items() if name not in names}


ACCEPTED = {
    "no prefix": lambda s: {name.removeprefix("model."): a for name, a in s.items()},
    "no tied copies": lambda s: without(s, *TIED_COPIES),
    "only lm_head": lambda s: without(s, "model.shared.weight", *(TIED_COPIES - {"lm_head.weight"})),
    "only the encoder's embedding": lambda s: without(
        s, "model.shared.weight", *(TIED_COPIES - {"model.encoder.embed_tokens.weight"})
    ),
    "fairseq's version keys": lambda s: s | {"model.encoder.version": np.ones(1), "model.decoder.version": np.ones(1)},
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_checkpoints_come_in_several_forms(case: str) -> None:
    a = twin()
    assert_same(convert(ACCEPTED[case](state_dict()), a.config), convert(state_dict(), a.config))


class Recorder(Mapping[str, np.ndarray]):
    """A state dict that counts how often each of its tensors is read."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors, self.reads = tensors, Counter[str]()

    def __getitem__(self, name: str) -> np.ndarray:
        self.reads[name] += 1
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_a_tensor_is_read_once_and_when_its_leaf_is_taken() -> None:
    """So a checkpoint can be converted tensor by tensor from its file, without having all of it in memory."""
    config = twin().config
    checkpoint = Recorder(without(state_dict(), *TIED_COPIES))
    state = open_state(checkpoint, config)
    assert not checkpoint.reads, "opening a state dict reads tensors"
    for path, leaf in jax.tree_util.tree_leaves_with_path(param_shapes(config)):
        before = checkpoint.reads.copy()
        assert take_leaf(state, pytorch_name, path, leaf).shape == leaf.shape
        read = checkpoint.reads - before
        assert read.total() == (leaf.shape[0] if "layers" in str(path) else 1), (
            f"{path}: these tensors were read, not one for each layer: {read}"
        )
    assert set(checkpoint.reads.values()) == {1} and checkpoint.reads.keys() == checkpoint.tensors.keys()
    assert not state, "a tensor stays in the state after its leaf was taken"


def test_a_missing_final_logits_bias_is_zero() -> None:
    a = twin()
    params = convert(without(state_dict(), "final_logits_bias"), a.config)
    assert not params["final_logits_bias"].any() and params["final_logits_bias"].shape == (a.config.vocab_size,)


def test_a_task_head_is_converted_and_comes_back() -> None:
    model = BartForSequenceClassification(BartConfig(**TINY, num_labels=5))
    randomize(model)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    config = Config.from_json(model.config.to_dict())
    params = convert(state, config)
    assert params["classification_head"]["dense"]["weight"].shape == (24, 24)
    assert params["classification_head"]["out_proj"]["weight"].shape == (24, 5)
    back = revert(params, config)
    assert not back.pop("final_logits_bias").any()
    assert_same(back, without(state, *TIED_COPIES))


def changed(state: dict[str, Any], name: str, change: Any) -> dict[str, Any]:
    return {**state, name: change(state[name])}


FC1, Q = "model.encoder.layers.1.fc1.weight", "model.decoder.layers.0.encoder_attn.q_proj.weight"
REFUSED = {
    "a missing layer": (lambda s: without(s, FC1), "no tensor 'encoder.layers.1.fc1.weight'"),
    "no embedding at all": (lambda s: without(s, "model.shared.weight", *TIED_COPIES), "no tensor 'shared.weight'"),
    "an unknown tensor": (lambda s: s | {"model.encoder.layer_norm.weight": np.ones(24)}, "encoder.layer_norm.weight"),
    "a layer too many": (lambda s: s | {"model.encoder.layers.2.fc1.bias": np.ones(40)}, "encoder.layers.2.fc1.bias"),
    "a transposed matrix": (lambda s: changed(s, FC1, np.transpose), r"fc1.weight has shape \(24, 40\).*\(40, 24\)"),
    "a matrix of JAX's shape": (lambda s: changed(s, Q, lambda a: a.reshape(3, 24, 8)), "q_proj.weight has shape"),
    "a cut vocabulary": (lambda s: changed(without(s, *TIED_COPIES), "model.shared.weight", lambda a: a[1:]), "shared"),
    "short positions": (
        lambda s: changed(s, "model.encoder.embed_positions.weight", lambda a: a[2:]),
        "embed_positions",
    ),
    "an untied head": (lambda s: changed(s, "lm_head.weight", lambda a: a + 1), "lm_head.weight differs"),
    "an untied encoder": (lambda s: changed(s, "model.encoder.embed_tokens.weight", np.negative), "encoder.* differs"),
    "another final_logits_bias": (lambda s: changed(s, "final_logits_bias", np.ravel), "final_logits_bias has shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(case: str) -> None:
    break_it, message = REFUSED[case]
    config = twin().config
    convert(state_dict(), config)  # raises nothing without the change
    with pytest.raises(ValueError, match=message):
        convert(break_it(state_dict()), config)


# ── Config ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_defaults_are_transformers() -> None:
    theirs = BartConfig()
    for field in dataclasses.fields(Config):
        assert field.default == getattr(theirs, field.name), field.name


def test_config_is_read_from_what_transformers_writes() -> None:
    values = {**TINY, "scale_embedding": True, "activation_function": "relu", "dropout": 0.3, "init_std": 0.05}
    values |= {"pad_token_id": 5, "bos_token_id": 6, "eos_token_id": 7, "decoder_start_token_id": 8}
    config = Config.from_json(BartConfig(**values).to_dict())
    assert {name: getattr(config, name) for name in values} == values


def test_fields_of_older_files_are_ignored() -> None:
    """These fields are in bart-large-cnn's config.json of 2020 and not in Config."""
    older = {"normalize_before": False, "normalize_embedding": True, "add_final_layer_norm": False, "num_beams": 4}
    fields = {"model_type": "bart", "static_position_embeddings": False, "extra_pos_embeddings": 2, **older}
    assert Config.from_json(fields) == Config()


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"model_type": "mbart"}, "model_type 'mbart' is not supported"),
        ({}, "model_type None is not supported"),
        ({"model_type": "bart", "normalize_before": True}, "normalize_before=true"),
        ({"model_type": "bart", "add_final_layer_norm": True}, "add_final_layer_norm=true"),
        ({"model_type": "bart", "static_position_embeddings": True}, "static_position_embeddings=true"),
        ({"model_type": "bart", "activation_function": "mish"}, "activation_function 'mish'"),
        ({"model_type": "bart", "encoder_attention_heads": 7}, "not divisible by encoder_attention_heads 7"),
        ({"model_type": "bart", "decoder_attention_heads": 0}, "not divisible by decoder_attention_heads 0"),
        ({"model_type": "bart", "vocab_size": 0}, "vocab_size must be at least 1"),
        ({"model_type": "bart", "max_position_embeddings": 0}, "max_position_embeddings must be at least 1"),
        ({"model_type": "bart", "encoder_layers": 0}, "encoder_layers must be at least 1"),
        ({"model_type": "bart", "decoder_layers": 0}, "decoder_layers must be at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_architecture_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.from_json(fields)


def test_a_config_can_be_a_static_argument() -> None:
    """A config cannot be changed, and equal configs share a compiled program."""
    a = twin()
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.config.d_model = 3  # type: ignore[misc]
    x = batch(a.config, B=1, S=3, T=2)
    arrays = (x["input_ids"], x["attention_mask"], x["decoder_input_ids"])
    forward(a.params, a.config, *arrays)
    compiled = forward._cache_size()
    forward(a.params, dataclasses.replace(a.config), *arrays)
    assert forward._cache_size() == compiled
