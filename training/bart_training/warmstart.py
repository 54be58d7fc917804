"""A BART whose layers start as those of a BERT-like encoder (here: all-MiniLM-L6-v2) instead of at random.

BERT's layer is BART's encoder layer: post-norm, learned positions, exact gelu. Three things differ and are folded in:
the segment row (always 0, so it joins the positions), the position offset of 2, and the vocabulary, which for ours is
rebuilt token by token from BERT's word pieces. Starting both sides of a sequence-to-sequence model from such an encoder
is Rothe et al., "Leveraging Pre-trained Checkpoints", https://arxiv.org/abs/1907.12461.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import bart_oneliner
from bart_oneliner import Config, Params

RENAMED = {  # BERT's names in a layer -> BART's
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
}
SPECIAL = {"<s>": "[CLS]", "</s>": "[SEP]", "<unk>": "[UNK]", "<mask>": "[MASK]"}


def token_embeddings(tokenizer: Tokenizer, pieces: Tokenizer, table: np.ndarray, seed: int) -> np.ndarray:
    """Rows (V,D) for our vocabulary: the mean of the word pieces that BERT would cut the token's surface into.

    BERT here is uncased and ours is not, so capitals get a common direction of their own: "Python" starts near "python"
    but can be told from it. The little noise separates tokens that BERT spells alike.
    """
    rng = np.random.default_rng(seed)
    D = table.shape[1]
    scale = np.linalg.norm(table, axis=1).mean()
    initial, capitals = rng.normal(size=(2, D)) * 0.3 * scale / D**0.5
    rows = rng.normal(size=(tokenizer.get_vocab_size(), D)) * 0.1 * scale / D**0.5
    rows[tokenizer.token_to_id("<pad>")] = 0.0
    for token, i in tokenizer.get_vocab().items():
        if token in SPECIAL:
            rows[i] += table[pieces.token_to_id(SPECIAL[token])]
            continue
        surface = tokenizer.decoder.decode([token])
        word = surface.strip()
        if token == "<pad>" or not word:
            continue
        inside = not surface.startswith(" ") and word.isalnum()  # of a word; "##," and the like are unused in BERT
        continuation = pieces.token_to_id("##" + word.lower()) if inside else None
        ids = [continuation] if continuation is not None else pieces.encode(word, add_special_tokens=False).ids
        rows[i] += table[ids].mean(0) if ids else 0.0
        rows[i] += initial * word[:1].isupper() + capitals * (word.isupper() and len(word) > 1)
    return rows.astype(np.float32)


def from_bert(folder: Path, config: Config, tokenizer: Tokenizer, seed: int) -> Params:
    """Params for `config` from the first encoder layers and, for the decoder, the last layers of `folder`."""
    pieces = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pieces.no_truncation()
    pieces.no_padding()
    table = load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    depth = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    decoder_from = list(range(depth - config.decoder_layers, depth))
    shared = token_embeddings(tokenizer, pieces, table, seed)
    return bart_oneliner.convert(bert_state_dict(folder, config, shared, decoder_from), config)


def bert_state_dict(folder: Path, config: Config, shared: np.ndarray, decoder_from: list[int]) -> dict:
    """The weights of `folder` under BART's names: encoder layers in order, decoder layer i from layer decoder_from[i].

    Cross-attention starts as a copy of the layer's self-attention, as in the paper above.
    """
    bert = load_file(folder / "model.safetensors")
    positions = bert["embeddings.position_embeddings.weight"] + bert["embeddings.token_type_embeddings.weight"][0]
    positions = np.concatenate([np.zeros_like(positions[:2]), positions])[: config.max_position_embeddings + 2]
    state = {"shared.weight": shared}
    for side, sources in (("encoder", list(range(config.encoder_layers))), ("decoder", decoder_from)):
        state[f"{side}.embed_positions.weight"] = positions
        for kind in ("weight", "bias"):
            state[f"{side}.layernorm_embedding.{kind}"] = bert[f"embeddings.LayerNorm.{kind}"]
        for i, source in enumerate(sources):
            for theirs, ours in RENAMED.items():
                for kind in ("weight", "bias"):
                    a = bert[f"encoder.layer.{source}.{theirs}.{kind}"]
                    state[f"{side}.layers.{i}.{ours}.{kind}"] = a
                    if side == "decoder" and ours.startswith("self_attn"):
                        state[f"{side}.layers.{i}.{ours.replace('self_attn', 'encoder_attn')}.{kind}"] = a
    return state


def least_squares(x: np.ndarray, y: np.ndarray, ridge: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """(W, b) with x @ W + b close to y."""
    x = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)
    solution = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
    return solution[:-1], solution[-1]


def copying_heads(
    params: Params,
    config: Config,
    input_ids: np.ndarray,
    heads: int,
    seed: int,
    sharpness: float = 8.0,
    gain: float = 2.0,
) -> Params:
    """Make `heads` cross-attention heads of the last decoder layer copy, by least squares instead of training.

    An induction head (Olsson et al., https://arxiv.org/abs/2209.11895) continues a quotation: it looks for the source
    position that follows the current token and adds that position's token to the output. All it needs is linear in the
    states that a BERT-like encoder and decoder already have: key = "the token before me", query = "the token I am at",
    value = "my token", all in the space of the embedding table's principal components. input_ids (B,S) are documents.
    """
    rng = np.random.default_rng(seed)
    K, E = config.d_model // config.decoder_attention_heads, np.asarray(params["shared"], np.float64)
    n = heads * K
    variance, basis = np.linalg.eigh(np.cov(E.T))
    rotation = np.linalg.qr(rng.normal(size=(n, n)))[0]
    basis = basis[:, ::-1][:, :n]  # (D,n), largest variance first
    white = ((E - E.mean(0)) @ basis / np.sqrt(variance[::-1][:n] + 0.1 * variance.mean())) @ rotation
    white /= np.linalg.norm(white, axis=1, keepdims=True) + 1e-6  # (V,n)
    basis = basis @ rotation

    ids, mask = jnp.asarray(input_ids), jnp.asarray(input_ids != config.pad_token_id)
    states = bart_oneliner.encode(params, config, ids, mask)
    queries = np.asarray(last_cross_attention_input(params, config, ids, states, mask), np.float64)
    memory, real = np.asarray(states, np.float64), np.asarray(mask)
    both = real[:, 1:]  # positions whose predecessor is real too
    key_w, key_b = least_squares(memory[:, 1:][both], white[input_ids[:, :-1][both]])
    query_w, query_b = least_squares(queries[real], white[input_ids[real]])
    value_w, value_b = least_squares(memory[real], ((E - E.mean(0)) @ basis)[input_ids[real]])

    keys = (memory[:, 1:][both] @ key_w + key_b).reshape(-1, heads, K)
    wanted = (queries[:, :-1][both] @ query_w + query_b).reshape(-1, heads, K)
    margin = (keys * wanted).sum(-1).mean() - (keys * wanted[rng.permutation(len(wanted))]).sum(-1).mean()
    scale = (sharpness * K**0.5 / margin) ** 0.5

    out = gain * np.linalg.norm(queries[real], axis=-1).mean() / np.linalg.norm(E - E.mean(0), axis=1).mean()
    attention = jax.tree.map(lambda a: np.array(a), params["decoder"]["layers"]["encoder_attn"])
    for name, w, b in (("q_proj", query_w * scale, query_b * scale), ("k_proj", key_w * scale, key_b * scale),
                       ("v_proj", value_w, value_b)):  # fmt: skip
        attention[name]["weight"][-1, :heads] = w.reshape(-1, heads, K).swapaxes(0, 1)
        attention[name]["bias"][-1, :heads] = b.reshape(heads, K)
    attention["out_proj"]["weight"][-1, :heads] = out * basis.T.reshape(heads, K, -1)
    layers = params["decoder"]["layers"] | {"encoder_attn": attention}
    return params | {"decoder": params["decoder"] | {"layers": layers}}


def last_cross_attention_input(params: Params, config: Config, ids: jax.Array, memory: jax.Array, mask: jax.Array):
    """What the last decoder layer's cross-attention asks with: (B,T) -> (B,T,D)."""
    layers = params["decoder"]["layers"]
    below = params | {"decoder": params["decoder"] | {"layers": jax.tree.map(lambda a: a[:-1], layers)}}
    x = bart_oneliner.decode(below, config, ids, memory, mask)
    top = jax.tree.map(lambda a: a[-1], layers)
    p = top["self_attn"]
    q, k, v = (bart_oneliner.split_heads(x, **p[name]) for name in ("q_proj", "k_proj", "v_proj"))
    causal = jnp.tril(jnp.ones((ids.shape[1], ids.shape[1]), bool))
    attended = bart_oneliner.merge_heads(bart_oneliner.attend(q, k, v, causal), **p["out_proj"])
    return bart_oneliner.layer_norm(x + attended, **top["self_attn_layer_norm"])
