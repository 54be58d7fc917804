"""A result does not depend on later tokens, other rows of the batch, padding, or dummy rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bart_inference import generate, prepare
from hypothesis import given, settings
from hypothesis import strategies as st

import bart_oneliner
from bart_oneliner import Params, decode, encode, forward
from tests.twins import Twin, assert_close, batch, logits, torch_logits, twin


@pytest.fixture(scope="module")
def a() -> Twin:
    return twin()


def sensitivity(a: Twin, T: int = 8) -> np.ndarray:
    """(T,T): the largest gradient of the decoder's output at position t by its input at position s.

    The input at position s is row s + 2 of the position table, which is added to the token's embedding.
    """
    x = batch(a.config, B=1, T=T)
    memory = encode(a.params, a.config, x["input_ids"], x["attention_mask"])

    def outputs(table: jax.Array) -> jax.Array:
        decoder = {**a.params["decoder"], "embed_positions": table}
        params = {**a.params, "decoder": decoder}
        return decode(params, a.config, x["decoder_input_ids"], memory, x["attention_mask"])[0].sum(-1)

    # The sum over features would be constant after a layer norm with equal weights; here they are random.
    jacobian = jax.jit(jax.jacrev(outputs))(a.params["decoder"]["embed_positions"])
    return np.abs(np.asarray(jacobian)).max(-1)[:, 2 : 2 + T]


def test_no_output_depends_on_a_later_input(a: Twin) -> None:
    """The gradient by later inputs is exactly zero, and that by the input itself and all earlier ones is not."""
    s = sensitivity(a)
    later = np.triu(np.ones_like(s, bool), 1)
    assert not s[later].any(), f"outputs that depend on later inputs (output, input): {np.argwhere(s * later)}"
    assert (s[~later] > 1e-6).all(), f"outputs without gradient (output, input): {np.argwhere((s <= 1e-6) & ~later)}"


def test_layer_norm_over_the_positions_would_leak_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    """test_no_output_depends_on_a_later_input would find this mistake: a mean over positions includes later ones."""

    def over_time(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
        return (x - x.mean(-2, keepdims=True)) / jnp.sqrt(x.var(-2, keepdims=True) + 1e-5) * weight + bias

    monkeypatch.setattr(bart_oneliner, "layer_norm", over_time)
    s = sensitivity(twin(seed=1))
    assert (s[np.triu(np.ones_like(s, bool), 1)] > 1e-6).all(), "`sensitivity` does not show the mistake"


def test_tokens_after_a_position_do_not_change_its_logits(a: Twin) -> None:
    """No bit of the logits changes. Uncached greedy search relies on it."""
    x = batch(a.config)
    before = logits(a, x)
    x["decoder_input_ids"][:, 4:] = 50
    after = logits(a, x)
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    assert (after[:, 4:] != before[:, 4:]).any()


def test_neighbors_do_not_change_a_row_by_a_bit(a: Twin) -> None:
    """This holds within one compiled shape, whatever the other rows contain; one of them is all padding."""
    x, y = batch(a.config, B=4, seed=1), batch(a.config, B=4, seed=2)
    y["attention_mask"][3] = 0
    for name in x:
        y[name][1] = x[name][1]
    ours, among_others = logits(a, x), logits(a, y)
    np.testing.assert_array_equal(ours[1], among_others[1])
    assert (ours[0] != among_others[0]).any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.data())
def test_what_a_mask_hides_does_not_matter(a: Twin, seed: int, data: st.DataObject) -> None:
    """Replacing the tokens that a mask hides changes no bit of the logits, even if hidden tokens are scattered."""
    x = batch(a.config, B=2, S=9, T=6, seed=seed)
    mask = data.draw(st.lists(st.booleans(), min_size=18, max_size=18).map(lambda bits: np.reshape(bits, (2, 9))))
    mask[:, data.draw(st.integers(0, 8))] = True
    x["attention_mask"] = mask.astype(np.int32)
    other = {**x, "input_ids": np.where(mask, x["input_ids"], (x["input_ids"] + 7) % a.config.vocab_size)}
    np.testing.assert_array_equal(logits(a, x), logits(a, other))
    shown = {**x, "input_ids": np.where(mask, (x["input_ids"] + 7) % a.config.vocab_size, x["input_ids"])}
    assert (logits(a, x) != logits(a, shown)).any(), "tokens that the mask shows do not matter either"


def test_hidden_decoder_inputs_do_not_matter(a: Twin) -> None:
    x = batch(a.config, B=3)
    before = logits(a, x)
    hidden = x["decoder_attention_mask"] == 0
    x["decoder_input_ids"] = np.where(hidden, 50, x["decoder_input_ids"])
    np.testing.assert_array_equal(logits(a, x)[~hidden], before[~hidden])


def test_padding_that_we_add_changes_logits_by_rounding_only(a: Twin) -> None:
    """The padded batch has longer sources and targets, and more rows."""
    x = batch(a.config, B=3, S=11, T=7)
    wide = {name: np.pad(array, ((0, 2), (0, 5))) for name, array in x.items()}
    assert_close(logits(a, wide)[:3, :7], logits(a, x), 2e-6, "padded")


def test_a_dummy_row_is_finite_and_has_finite_gradients(a: Twin) -> None:
    """A row with every position hidden has uniform attention, as in PyTorch's eager attention, and not NaN.

    In training, a NaN would reach all weights.
    """
    eager = twin(attn_implementation="eager")
    x = batch(eager.config)
    x["attention_mask"][1] = 0
    assert_close(logits(eager, x), torch_logits(eager, x), 5e-6, "logits with a dummy row")

    def total(params: Params) -> jax.Array:
        return bart_oneliner.loss(params, a.config, x["input_ids"], x["attention_mask"], x["labels"])

    gradient = jax.jit(jax.grad(total))(a.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "no_repeat_ngram_size": 2}], ids=["greedy", "beams"])
def test_batch_bucket_and_padding_change_no_token(a: Twin, options: dict[str, Any]) -> None:
    """A row gives the same tokens alone without padding, in a batch, and in a batch with further padding.

    Its scores, which are sums of log-probabilities, differ by less than 1e-5.
    """
    model = prepare(a.model)
    x = batch(a.config, B=3, S=19, seed=3)
    options = {"max_new_tokens": 12, "forced_eos_token_id": None, **options}
    together = generate(model, x["input_ids"], x["attention_mask"], **options)
    padded = [np.pad(x[name], ((0, 2), (0, 21))) for name in ("input_ids", "attention_mask")]
    padded[1][3:] = 1
    further = generate(model, *padded, **options)
    for i in range(3):
        length = x["attention_mask"][i].sum()
        alone = generate(model, x["input_ids"][i : i + 1, :length], **options)
        for case, batched in (("in a batch", together), ("padded further", further)):
            n = alone.lengths[0]
            same_tokens = batched.lengths[i] == n and (batched.sequences[i, :n] == alone.sequences[0, :n]).all()
            assert same_tokens, f"row {i} {case}: tokens differ from those of the row alone"
            difference = abs(batched.sequences_scores[i] - alone.sequences_scores[0])
            assert difference < 1e-5, f"row {i} {case}: scores differ by {difference:.1e}"


def test_forward_is_pure(a: Twin) -> None:
    """Two calls with equal arguments give equal bits, and the arguments are not changed."""
    x = batch(a.config)
    before = jax.tree.map(np.array, a.params)
    np.testing.assert_array_equal(logits(a, x), logits(a, x))
    jax.tree.map(np.testing.assert_array_equal, a.params, before)
    assert forward(a.params, a.config, x["input_ids"], x["attention_mask"], x["decoder_input_ids"]).dtype == jnp.float32
