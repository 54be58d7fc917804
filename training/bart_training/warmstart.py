"""Makes a BART whose layers start as those of a BERT-like encoder (all-MiniLM-L6-v2) instead of at random.

BERT's layer is BART's encoder layer: post-norm, learned positions, exact gelu. Three things differ. The segment
embedding of segment 0 is added to all positions. Positions move by 2 rows, because BART does not use the first two. The
embeddings of our vocabulary are made from those of BERT's word pieces. To start both the encoder and the decoder from
one encoder is the method of Rothe et al., "Leveraging Pre-trained Checkpoints", https://arxiv.org/abs/1907.12461.
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


def token_embeddings(tokenizer: Tokenizer, bert_tokenizer: Tokenizer, table: np.ndarray, seed: int) -> np.ndarray:
    """Embeddings (V,D) for our vocabulary: for each token the mean over the word pieces that BERT cuts its text into.

    table: BERT's embeddings. This BERT is uncased and our tokenizer is not, so one vector is added to all tokens that
    begin with a capital, and another to all tokens in capitals: "Python" starts near "python" but differs from it. A
    little noise separates tokens that have the same word pieces.
    """
    rng = np.random.default_rng(seed)
    D = table.shape[1]
    scale = np.linalg.norm(table, axis=1).mean()
    initial, capitals = rng.normal(size=(2, D)) * 0.3 * scale / D**0.5
    rows = rng.normal(size=(tokenizer.get_vocab_size(), D)) * 0.1 * scale / D**0.5
    rows[tokenizer.token_to_id("<pad>")] = 0.0
    for token, i in tokenizer.get_vocab().items():
        if token in SPECIAL:
            rows[i] += table[bert_tokenizer.token_to_id(SPECIAL[token])]
            continue
        text = tokenizer.decoder.decode([token])
        word = text.strip()
        if token == "<pad>" or not word:
            continue
        ids = word_pieces(bert_tokenizer, text)
        if ids:
            rows[i] += table[ids].mean(0)
        if word[0].isupper():
            rows[i] += initial
        if word.isupper() and len(word) > 1:
            rows[i] += capitals
    return rows.astype(np.float32)


def word_pieces(bert_tokenizer: Tokenizer, text: str) -> list[int]:
    """BERT's ids for the text of one of our tokens. Without a space before it, the token continues a word ("##…")."""
    word = text.strip()
    if not text.startswith(" ") and word.isalnum():  # BERT never uses "##," and other pieces of punctuation
        continuation = bert_tokenizer.token_to_id("##" + word.lower())
        if continuation is not None:
            return [continuation]
    return bert_tokenizer.encode(word, add_special_tokens=False).ids


def from_bert(folder: Path, config: Config, tokenizer: Tokenizer, seed: int) -> Params:
    """Params for `config`: the encoder has the first layers of the BERT in `folder`, the decoder its last layers."""
    bert_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bert_tokenizer.no_truncation()
    bert_tokenizer.no_padding()
    table = load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    depth = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    decoder_from = list(range(depth - config.decoder_layers, depth))
    shared = token_embeddings(tokenizer, bert_tokenizer, table, seed)
    return bart_oneliner.convert(bert_state_dict(folder, config, shared, decoder_from), config)


def bert_state_dict(folder: Path, config: Config, shared: np.ndarray, decoder_from: list[int]) -> dict:
    """The weights of `folder` under BART's names: encoder layers in order, decoder layer i from layer decoder_from[i].

    Cross-attention starts as a copy of the layer's self-attention, as in Rothe et al.
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
            for name, tensor in layer_tensors(bert, source).items():
                state[f"{side}.layers.{i}.{name}"] = tensor
                if side == "decoder" and name.startswith("self_attn"):
                    state[f"{side}.layers.{i}.{name.replace('self_attn', 'encoder_attn')}"] = tensor
    return state


def layer_tensors(bert: dict[str, np.ndarray], layer: int) -> dict[str, np.ndarray]:
    """The weights of one of BERT's layers under BART's names."""
    tensors = {}
    for theirs, ours in RENAMED.items():
        for kind in ("weight", "bias"):
            tensors[f"{ours}.{kind}"] = bert[f"encoder.layer.{layer}.{theirs}.{kind}"]
    return tensors


def least_squares(x: np.ndarray, y: np.ndarray, ridge: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """(W, b) that minimize the squared distance of x @ W + b from y plus `ridge` times the squared norms of W and b."""
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
    """Params in which `heads` cross-attention heads of the last decoder layer copy, fitted by least squares.

    An induction head (Olsson et al., https://arxiv.org/abs/2209.11895) continues a quotation: it looks for the source
    position that follows the current token and adds that position's token to the output. What it needs is linear in the
    states that a BERT-like encoder and decoder already have: the key is the token before the position, the query is the
    current token, and the value is the position's token, each in the space of the embeddings' principal components.

    input_ids (B,S): documents. sharpness: by how much the score of the right position exceeds that of others, in nats.
    gain: the norm of what the heads add, relative to the decoder's states.
    """
    rng = np.random.default_rng(seed)
    K = config.d_model // config.decoder_attention_heads
    embeddings = np.asarray(params["shared"], np.float64)
    centered = embeddings - embeddings.mean(0)  # (V,D)
    basis, white = principal_components(embeddings, heads * K, rng)

    ids, mask = jnp.asarray(input_ids), jnp.asarray(input_ids != config.pad_token_id)
    states = bart_oneliner.encode(params, config, ids, mask)
    queries = np.asarray(last_cross_attention_input(params, config, ids, states, mask), np.float64)
    memory, real = np.asarray(states, np.float64), np.asarray(mask)
    follows = real[:, 1:]  # (B,S-1): whether position i + 1 is a token, as then position i is too
    previous_tokens, tokens = input_ids[:, :-1][follows], input_ids[real]
    key_w, key_b = least_squares(memory[:, 1:][follows], white[previous_tokens])
    query_w, query_b = least_squares(queries[real], white[tokens])
    value_w, value_b = least_squares(memory[real], (centered @ basis)[tokens])

    fitted_keys = memory[:, 1:][follows] @ key_w + key_b
    fitted_queries = queries[:, :-1][follows] @ query_w + query_b
    scale = scale_for_margin(fitted_keys.reshape(-1, heads, K), fitted_queries.reshape(-1, heads, K), sharpness, rng)
    state_norm = np.linalg.norm(queries[real], axis=-1).mean()
    embedding_norm = np.linalg.norm(centered, axis=1).mean()
    out_scale = gain * state_norm / embedding_norm
    projections = {
        "q_proj": (query_w * scale, query_b * scale),
        "k_proj": (key_w * scale, key_b * scale),
        "v_proj": (value_w, value_b),
    }
    return with_heads(params, projections, out_scale * basis.T.reshape(heads, K, -1))


def scale_for_margin(keys: np.ndarray, queries: np.ndarray, margin: float, rng: np.random.Generator) -> float:
    """The factor for keys and queries (N,H,K) with which scores of matching pairs exceed those of random pairs.

    margin: by how much, in the mean, after attention's scale of 1/√K.
    """
    random_queries = queries[rng.permutation(len(queries))]
    present = (keys * queries).sum(-1).mean() - (keys * random_queries).sum(-1).mean()
    return (margin * keys.shape[-1] ** 0.5 / present) ** 0.5


def with_heads(params: Params, projections: dict[str, tuple[np.ndarray, np.ndarray]], out_proj: np.ndarray) -> Params:
    """Params with other weights in the first heads of the last decoder layer's cross-attention.

    projections: weight (D,H·K) and bias (H·K,) by name. out_proj: (H,K,D).
    """
    heads, K, _ = out_proj.shape
    attention = jax.tree.map(np.array, params["decoder"]["layers"]["encoder_attn"])
    for name, (weight, bias) in projections.items():
        attention[name]["weight"][-1, :heads] = weight.reshape(-1, heads, K).swapaxes(0, 1)
        attention[name]["bias"][-1, :heads] = bias.reshape(heads, K)
    attention["out_proj"]["weight"][-1, :heads] = out_proj
    layers = params["decoder"]["layers"] | {"encoder_attn": attention}
    return params | {"decoder": params["decoder"] | {"layers": layers}}


def principal_components(embeddings: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An embedding table (V,D) -> its first n principal components, rotated at random (D,n); whitened unit rows (V,n).

    The rotation spreads the variance evenly over the heads.
    """
    variance, basis = np.linalg.eigh(np.cov(embeddings.T))
    rotation = np.linalg.qr(rng.normal(size=(n, n)))[0]
    basis = basis[:, ::-1][:, :n]  # eigh returns ascending variances; here the largest comes first
    deviation = np.sqrt(variance[::-1][:n] + 0.1 * variance.mean())
    white = ((embeddings - embeddings.mean(0)) @ basis / deviation) @ rotation
    white /= np.linalg.norm(white, axis=1, keepdims=True) + 1e-6
    return basis @ rotation, white


def last_cross_attention_input(params: Params, config: Config, ids: jax.Array, memory: jax.Array, mask: jax.Array):
    """The input of the last decoder layer's cross-attention, from which its queries are made: ids (B,T) -> (B,T,D)."""
    layers = params["decoder"]["layers"]
    lower_layers = jax.tree.map(lambda a: a[:-1], layers)
    lower_decoder = params["decoder"] | {"layers": lower_layers}
    x = bart_oneliner.decode(params | {"decoder": lower_decoder}, config, ids, memory, mask)
    top = jax.tree.map(lambda a: a[-1], layers)
    p = top["self_attn"]
    q = bart_oneliner.split_heads(x, **p["q_proj"])
    k = bart_oneliner.split_heads(x, **p["k_proj"])
    v = bart_oneliner.split_heads(x, **p["v_proj"])
    causal = jnp.tril(jnp.ones((ids.shape[1], ids.shape[1]), bool))
    attended = bart_oneliner.merge_heads(bart_oneliner.attend(q, k, v, causal), **p["out_proj"])
    return bart_oneliner.layer_norm(x + attended, **top["self_attn_layer_norm"])
