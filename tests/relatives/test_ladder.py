"""Each part of BERT, RoBERTa and T5 equals PyTorch's module for the module's inputs: see tests/ladder.py."""

import functools
from typing import Any

import bert_oneliner
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5_oneliner

from bart_oneliner import ACTIVATIONS, Params, attend, linear, split_heads
from tests.ladder import MASKS, WHOLE, Case, assert_rung, masked
from tests.relatives.twins import BOTH_SIDES, ENCODER, batch, float64, logits, torch_logits, twin
from tests.twins import assert_close, record

Seen = dict[str, list[jax.Array]]  # the inputs of PyTorch's modules, by name

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "bert, steep attention": ("bert", {"gain": 3.0}),
    "bert, eager attention": ("bert", {"attn_implementation": "eager"}),
    "bert, one layer, one head, relu": (
        "bert",
        {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_act": "relu"},
    ),
    "bert, heads of width one, gelu_new, pad 7, eps 1e-2": (
        "bert",
        {"num_attention_heads": 24, "hidden_act": "gelu_new", "pad_token_id": 7, "layer_norm_eps": 1e-2},
    ),
    "roberta": ("roberta", {}),
    "roberta, wide, silu, pad 5": (
        "roberta",
        {"hidden_size": 96, "intermediate_size": 384, "hidden_act": "silu", "pad_token_id": 5, "type_vocab_size": 1},
    ),
    "t5": ("t5", {}),
    "t5, steep attention": ("t5", {"gain": 3.0}),
    "t5, eager attention": ("t5", {"attn_implementation": "eager"}),
    "t5, one layer, one head, eps 1e-2": (
        "t5",
        {"num_layers": 1, "num_decoder_layers": 1, "num_heads": 1, "layer_norm_epsilon": 1e-2},
    ),
    "t5, buckets as published": (
        "t5",
        {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
    ),
    "t5 v1.1": ("t5-v1.1", {}),
    "t5 v1.1, wide, gated silu, other special ids": (
        "t5-v1.1",
        {"d_model": 96, "feed_forward_proj": "gated-silu", "pad_token_id": 5, "decoder_start_token_id": 9},
    ),
    "t5, gated and tied": ("t5", {"feed_forward_proj": "gated-gelu"}),
}
# Every configuration with padding on the right, and every other mask with three configurations.
GRID = [(config, "padded right") for config in CONFIGS]
GRID += [(config, mask) for config in ("bert", "roberta", "t5") for mask in MASKS[1:]]


def bert_rungs(params: Params, config: Any, x: dict[str, jax.Array], seen: Seen) -> dict[str, Any]:
    """Name of PyTorch's module -> output of our function for `seen`, the inputs that the module had."""
    page, eps = bert_oneliner, config.layer_norm_eps
    ours = {"embeddings": page.embed(params, config, x["input_ids"], x["token_type_ids"])}
    ours["embeddings.LayerNorm"] = page.layer_norm(
        *seen["embeddings.LayerNorm"], **params["layernorm_embedding"], eps=eps
    )
    mask = x["attention_mask"].astype(bool)[:, None, None]
    activation = ACTIVATIONS[config.hidden_act]
    for i in range(config.num_hidden_layers):
        at = f"encoder.layer.{i}"
        p = jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        (hidden,) = seen[f"{at}.attention.self"]
        q, k, v = (split_heads(hidden, **p["self_attn"][name]) for name in ("q_proj", "k_proj", "v_proj"))
        heads = attend(q, k, v, mask).swapaxes(1, 2)
        ours[f"{at}.attention.self"] = heads.reshape(hidden.shape)
        merge = p["self_attn"]["out_proj"]
        flat = {"weight": merge["weight"].reshape(-1, hidden.shape[-1]), "bias": merge["bias"]}
        for name, weights in (("attention.output", flat), ("intermediate", p["fc1"]), ("output", p["fc2"])):
            ours[f"{at}.{name}.dense"] = linear(*seen[f"{at}.{name}.dense"], **weights)
        for name, norm in (("attention.output", "self_attn_layer_norm"), ("output", "final_layer_norm")):
            ours[f"{at}.{name}.LayerNorm"] = page.layer_norm(*seen[f"{at}.{name}.LayerNorm"], **p[norm], eps=eps)
        name = f"{at}.intermediate.intermediate_act_fn"
        ours[name] = activation(*seen[name])
        ours[at] = page.layer(seen[at][0], mask, config, None, **p)
    head = "lm_head" if config.model_type == "roberta" else "cls.predictions"
    inside = head if config.model_type == "roberta" else f"{head}.transform"
    norm = "layer_norm" if config.model_type == "roberta" else "LayerNorm"
    ours[f"{inside}.dense"] = linear(*seen[f"{inside}.dense"], **params["lm_head"]["dense"])
    ours[f"{inside}.{norm}"] = page.layer_norm(
        *seen[f"{inside}.{norm}"], **params["lm_head"]["layer_norm"], eps=config.layer_norm_eps
    )
    ours[head] = page.lm_head(params, config, *seen[head])
    return ours | {"encoder": page.encode(params, config, x["input_ids"], x["attention_mask"], x["token_type_ids"])}


def t5_rungs(params: Params, config: Any, x: dict[str, jax.Array], seen: Seen) -> dict[str, Any]:
    """Name of PyTorch's module -> output of our function for `seen`, the inputs that the module had."""
    page, eps = t5_oneliner, config.layer_norm_epsilon
    T = x["decoder_input_ids"].shape[1]
    source = x["attention_mask"].astype(bool)[:, None, None]
    causal = jnp.tri(T, dtype=bool) & x["decoder_attention_mask"].astype(bool)[:, None, None]

    def attention(x: jax.Array, memory: jax.Array, bias: Any, mask: jax.Array, p: Params) -> jax.Array:
        q = jnp.einsum("btd,hdk->bhtk", x, p["q_proj"]["weight"])
        k = jnp.einsum("btd,hdk->bhtk", memory, p["k_proj"]["weight"])
        v = jnp.einsum("btd,hdk->bhtk", memory, p["v_proj"]["weight"])
        return jnp.einsum("bhtk,hkd->btd", page.attend(q, k, v, bias, mask, 0.0, None), p["out_proj"]["weight"])

    ours: dict[str, Any] = {}
    for side, mask in (("encoder", source), ("decoder", causal)):
        weights, ids = params[side], x["input_ids" if side == "encoder" else "decoder_input_ids"]
        bias = page.position_bias(weights, config, ids.shape[1], side == "encoder")
        ours[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"] = bias[0].transpose(1, 2, 0)
        for i in range(weights["layers"]["fc1"]["weight"].shape[0]):
            at = f"{side}.block.{i}"
            p = jax.tree.map(lambda leaf, i=i: leaf[i], weights["layers"])
            norms = ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"]
            for n, norm in enumerate(norms if side == "decoder" else norms[::2]):
                name = f"{at}.layer.{n}.layer_norm"
                ours[name] = page.rms_norm(*seen[name], **p[norm], eps=eps)
            (hidden,) = seen[f"{at}.layer.0.SelfAttention"]
            ours[f"{at}.layer.0.SelfAttention"] = attention(hidden, hidden, bias, mask, p["self_attn"])
            memory = None
            if side == "decoder":
                hidden, memory = seen[f"{at}.layer.1.EncDecAttention"]
                ours[f"{at}.layer.1.EncDecAttention"] = attention(hidden, memory, 0.0, source, p["encoder_attn"])
            dense = f"{at}.layer.{2 if side == 'decoder' else 1}.DenseReluDense"
            for name, leaf in (("wi", "fc1"), ("wi_0", "fc1"), ("wi_1", "gate"), ("wo", "fc2")):
                if f"{dense}.{name}" in seen:
                    ours[f"{dense}.{name}"] = page.linear(*seen[f"{dense}.{name}"], **p[leaf])
            ours[f"{dense}.act"] = ACTIVATIONS[config.activation](*seen[f"{dense}.act"])
            ours[at] = page.layer(seen[at][0], bias, mask, memory, source, config, None, **p)
        ours[f"{side}.final_layer_norm"] = page.rms_norm(
            *seen[f"{side}.final_layer_norm"], **weights["layer_norm"], eps=eps
        )
    _, memory = seen["decoder.block.0"]
    ours["encoder"] = page.encode(params, config, x["input_ids"], x["attention_mask"])
    masks = x["attention_mask"], x["decoder_attention_mask"]
    ours["decoder"] = page.decode(params, config, x["decoder_input_ids"], memory, *masks)
    (hidden,) = seen["lm_head"]  # these are scaled already; our lm_head scales its input itself
    scale = config.d_model**-0.5 if config.scale_decoder_outputs else 1.0
    ours["lm_head"] = page.lm_head(params, config, hidden / scale)
    return ours


@pytest.fixture(scope="module", params=GRID, ids=lambda pair: "; ".join(pair))
def case(request: pytest.FixtureRequest) -> Case:
    config, mask = request.param
    name, fields = CONFIGS[config]
    a = twin(name, **fields)
    x = masked(batch(a, B=4, S=13, T=9), mask)
    recorded = record(a.torch, lambda: torch_logits(a, x))
    seen = {name.removeprefix("bert.").removeprefix("roberta."): pair for name, pair in recorded.items()}
    theirs = {name: output for name, (_, output) in seen.items()}
    # PyTorch's encoder and decoder return dataclasses; the last module in each returns the same states as a tensor.
    if a.family.inputs == ENCODER:
        theirs["encoder"] = theirs[f"encoder.layer.{a.config.num_hidden_layers - 1}"]
    else:
        theirs |= {side: theirs[f"{side}.final_layer_norm"] for side in ("encoder", "decoder")}
    inputs = {name: jnp.asarray(x[name]) for name in a.family.inputs}
    taken = {name: [jnp.asarray(array) for array in arrays] for name, (arrays, _) in seen.items()}
    rungs = jax.jit(bert_rungs if a.family.inputs == ENCODER else t5_rungs, static_argnums=1)
    return Case(a, x, rungs(a.params, a.config, inputs, taken), theirs)


def test_every_part(case: Case) -> None:
    """All parts are compared before the test fails, so that the message names every part that differs."""
    wrong = []
    for name in case.ours:
        try:
            assert_rung(case, name)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "\n".join(wrong)


INSIDE = (  # ends of the names of modules that are compared inside larger ones, or contain only dropout or lists
    *("word_embeddings", "position_embeddings", "token_type_embeddings", "query", "key", "value", "dropout"),
    *("attention", "attention.output", "intermediate", ".output", "transform", "transform_act_fn", "decoder", "cls"),
    *(".q", ".k", ".v", ".o", "shared", "embed_tokens", "layer.0", "layer.1", "layer.2", "DenseReluDense"),
)


def test_every_module_of_pytorch_is_a_part(case: Case) -> None:
    """No module but those of INSIDE is left out of the comparison."""
    missing = {name for name in case.theirs if name and name not in case.ours and not name.endswith(INSIDE)}
    assert not missing, f"not compared: {missing}"
    assert set(case.ours) <= set(case.theirs)


def test_logits(case: Case) -> None:
    assert_close(logits(case.twin, case.batch), torch_logits(case.twin, case.batch), WHOLE, "logits")


@pytest.mark.parametrize("name", ["bert", "roberta", "t5", "t5-v1.1"])
def test_logits_in_float64(name: str) -> None:
    """In float64 the difference is under 1e-13."""
    with float64():
        a = twin(name, dtype="float64")
        x = batch(a)
        assert_close(logits(a, x), torch_logits(a, x), 1e-13, "logits")


@pytest.mark.parametrize("name,B,S,T", [("bert", 1, 1, 1), ("bert", 2, 48, 1), ("roberta", 2, 46, 1), ("t5", 1, 1, 1)])
def test_logits_at_the_edges_of_the_shapes(name: str, B: int, S: int, T: int) -> None:
    """One token, and as many as the position table has rows: 48, of which RoBERTa can use 46."""
    a = twin(name)
    x = batch(a, B=B, S=S, T=T)
    assert_close(logits(a, x), torch_logits(a, x), WHOLE, f"{B, S, T}")


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_products_ask_for_the_highest_precision(name: str) -> None:
    """This holds for every product in the loss and its gradient.

    By default TPUs would multiply float32 as bfloat16, and recent GPUs as TF32.
    """
    from tests.model.test_precision import products

    a = twin(name)
    x = {n: array for n, array in batch(a).items() if not n.startswith("decoder")}
    program = jax.make_jaxpr(jax.grad(functools.partial(a.family.page.loss, config=a.config, **x)))(a.params).jaxpr
    precisions = [equation.params["precision"] for equation in products(program)]
    assert len(precisions) >= 30 and set(precisions) == {(jax.lax.Precision.HIGHEST,) * 2}


@pytest.mark.parametrize("bidirectional", [True, False], ids=["encoder", "decoder"])
@pytest.mark.parametrize("buckets,distance", [(32, 128), (32, 256), (16, 64), (6, 10), (64, 1000)])
def test_buckets_are_pytorchs(buckets: int, distance: int, bidirectional: bool) -> None:
    """Among 600 positions, some are farther apart than `distance`, where the last bucket begins, if it is under 600."""
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    config = t5_oneliner.Config(relative_attention_num_buckets=buckets, relative_attention_max_distance=distance)
    positions = torch.arange(600)
    relative = positions[None, :] - positions[:, None]
    theirs = T5Attention._relative_position_bucket(relative, bidirectional, buckets, distance).numpy()
    np.testing.assert_array_equal(t5_oneliner.buckets(config, 600, bidirectional), theirs)


def test_without_a_decoder_mask_every_position_is_attended_to() -> None:
    a = twin("t5")
    x = batch(a)
    masked = logits(a, x)
    del x["decoder_attention_mask"]
    assert set(x) & set(BOTH_SIDES) == set(BOTH_SIDES[:3])
    assert_close(logits(a, x), torch_logits(a, x), WHOLE, "logits")
    assert np.abs(logits(a, x) - masked).max() > 1e-2, "the mask makes no difference for this batch"
