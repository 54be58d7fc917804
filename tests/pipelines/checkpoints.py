"""Builds small random checkpoints with the files and settings of published ones, the same bytes on every machine.

Two environments build them: the one with transformers 4.57.6 that writes the golden results, and the one of the tests.
So only numpy, safetensors and json are used, and weights are scaled sums of random integers, which have the same bits
with every version of numpy. The tokenizers have the first TOKENS tokens of the embedded checkpoint's tokenizer.

    cnn         like bart-large-cnn: lengths in generation_config.json, prefix " ", vocab.json and merges.txt
    base        like bart-base: lengths only in task_specific_params, no generation_config.json
    xsum        like bart-large-xsum: six beams and a length in a generation_config.json of transformers 4.27
    bare        no option sets a length or a number of beams, no task_specific_params
    added       tokenizer.json with added tokens, some of them special
    mnli        three labels: contradiction, neutral, entailment
    sentiment   two labels
    topics      four labels, of which a text may have several
    rating      one number (regression)
    squad       question answering
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

EMBEDDED_TOKENIZER = Path(__file__).resolve().parents[2] / "models" / "debian-tiny" / "tokenizer.json"
TOKENS = 1000  # tokens of each tokenizer, special ones included
POSITIONS = 320  # more than the 256 new tokens that transformers 4.57.6 generates if no option sets a length
SIZES = {
    "vocab_size": TOKENS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": POSITIONS,
}  # fmt: skip
SPECIAL = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}

CNN_LENGTHS = {"max_length": 24, "min_length": 8, "num_beams": 4, "length_penalty": 2.0, "no_repeat_ngram_size": 3}
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "cnn": {
        "kind": "ConditionalGeneration",
        "files": "bpe",
        "config": {
            "prefix": " ",
            "task_specific_params": {"summarization": {**CNN_LENGTHS, "early_stopping": True}},
        },
        "generation": {**CNN_LENGTHS, "early_stopping": True, "forced_bos_token_id": 0, "forced_eos_token_id": 2},
    },
    "base": {
        "kind": "ConditionalGeneration",
        "files": "bpe",
        "config": {
            "early_stopping": True,
            "no_repeat_ngram_size": 3,
            "num_beams": 2,
            "task_specific_params": {
                "summarization": {"length_penalty": 1.0, "max_length": 18, "min_length": 6, "num_beams": 4},
                "translation_en_to_de": {"max_length": 20, "num_beams": 1, "prefix": "translate: "},
                "summarization_cnn": {"length_penalty": 2.0, "max_length": 30, "min_length": 12, "num_beams": 4},
            },
        },
        "generation": None,
    },
    "xsum": {
        "kind": "ConditionalGeneration",
        "files": "tokenizer.json",
        "config": {"prefix": " "},
        "generation": {
            "max_length": 22, "min_length": 4, "num_beams": 6, "early_stopping": True, "no_repeat_ngram_size": 3,
            "forced_eos_token_id": 2, "transformers_version": "4.27.0",
        },
    },
    "bare": {
        "kind": "ConditionalGeneration",
        "files": "tokenizer.json",
        "config": {},
        "generation": {"forced_eos_token_id": 2},
    },
    "added": {
        "kind": "ConditionalGeneration",
        "files": "tokenizer.json",
        "added": [("<sep>", True), ("bioinformatics", False), ("<topic>", True), ("JAX", False)],
        "config": {"task_specific_params": {"translation": {"max_length": 12}, "summarization": {"max_length": 22}}},
        "generation": {"max_length": 16, "num_beams": 2, "no_repeat_ngram_size": 2, "forced_eos_token_id": 2},
    },
    "mnli": {
        "kind": "SequenceClassification",
        "files": "bpe",
        "labels": ["contradiction", "neutral", "entailment"],
        "config": {},
        "generation": None,
    },
    "sentiment": {
        "kind": "SequenceClassification",
        "files": "tokenizer.json",
        "labels": ["NEGATIVE", "POSITIVE"],
        "config": {"problem_type": "single_label_classification"},
        "generation": None,
    },
    "topics": {
        "kind": "SequenceClassification",
        "files": "tokenizer.json",
        "labels": ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"],
        "config": {"problem_type": "multi_label_classification"},
        "generation": None,
    },
    "rating": {
        "kind": "SequenceClassification",
        "files": "tokenizer.json",
        "labels": ["LABEL_0"],
        "config": {"problem_type": "regression"},
        "generation": None,
    },
    "squad": {"kind": "QuestionAnswering", "files": "bpe", "config": {}, "generation": None},
}  # fmt: skip


def build(name: str, folder: Path) -> Path:
    """Creates the folder and writes the checkpoint `name` of CHECKPOINTS into it."""
    shape = CHECKPOINTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    added = shape.get("added", [])
    sizes = SIZES | {"vocab_size": TOKENS + len(added)}
    config = {"model_type": "bart", "architectures": [f"BartFor{shape['kind']}"], "is_encoder_decoder": True}
    config |= {**sizes, **SPECIAL, "forced_eos_token_id": 2, "torch_dtype": "float32", **shape["config"]}
    if labels := shape.get("labels"):
        config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    write_json(folder / "config.json", config)
    if shape["generation"] is not None:
        write_json(folder / "generation_config.json", {**SPECIAL, **shape["generation"]})
    write_tokenizer(folder, shape["files"], added)
    seed = sorted(CHECKPOINTS).index(name)
    tensors = random_weights(seed, sizes, shape["kind"], len(labels or ()))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_json(path: Path, fields: Any) -> None:
    path.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(folder: Path, files: str, added: list[tuple[str, bool]]) -> None:
    """Writes a tokenizer with the first TOKENS tokens of the embedded checkpoint's.

    `files` is "tokenizer.json", or "bpe" for vocab.json and merges.txt. `added` has additional tokens for
    tokenizer.json, as pairs (content, whether it is special).
    """
    fields = json.loads(EMBEDDED_TOKENIZER.read_text(encoding="utf-8"))
    vocab = {token: i for token, i in fields["model"]["vocab"].items() if i < TOKENS - 1}
    merges = [pair for pair in fields["model"]["merges"] if "".join(pair) in vocab]
    if files == "bpe":
        write_json(folder / "vocab.json", {**vocab, "<mask>": TOKENS - 1})
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        fields["model"] |= {"vocab": vocab, "merges": merges}
        [mask] = [token for token in fields["added_tokens"] if token["content"] == "<mask>"]
        mask["id"] = TOKENS - 1
        for i, (content, special) in enumerate(added):
            token = {**mask, "id": TOKENS + i, "content": content, "special": special, "lstrip": False}
            fields["added_tokens"].append({**token, "normalized": not special})
        write_json(folder / "tokenizer.json", fields)
    write_json(folder / "tokenizer_config.json", {"model_max_length": POSITIONS, "tokenizer_class": "BartTokenizer"})


def random_weights(seed: int, sizes: dict[str, Any], kind: str, labels: int) -> dict[str, np.ndarray]:
    """Name -> tensor of the state dict. The order of the calls to `draw` decides which random numbers a tensor gets."""
    random = np.random.RandomState(seed)  # numpy guarantees that its random numbers never change
    D, V, P = sizes["d_model"], sizes["vocab_size"], sizes["max_position_embeddings"] + 2
    tensors: dict[str, np.ndarray] = {}

    def draw(name: str, shape: tuple[int, ...], scale: float, middle: float = 0.0) -> None:
        sums = random.randint(-(2**15), 2**15, size=(4, *shape)).sum(0)
        tensors[name] = (sums / 2.0**16 * scale + middle).astype(np.float32)

    def linear(name: str, outputs: int, inputs: int, gain: float) -> None:
        draw(f"{name}.weight", (outputs, inputs), gain * inputs**-0.5)
        draw(f"{name}.bias", (outputs,), 0.25)

    def norm(name: str, scale: float = 0.25, middle: float = 1.0) -> None:
        draw(f"{name}.weight", (D,), scale, middle)
        draw(f"{name}.bias", (D,), 0.25)

    def attention(name: str) -> None:
        for projection, gain in (("k_proj", 3.0), ("v_proj", 3.0), ("q_proj", 3.0), ("out_proj", 3.0)):
            linear(f"{name}.{projection}", D, D, gain)
        norm(f"{name}_layer_norm")

    draw("model.shared.weight", (V, D), 1.0)
    for side in ("encoder", "decoder"):
        draw(f"model.{side}.embed_positions.weight", (P, D), 3.0)
        norm(f"model.{side}.layernorm_embedding")
        for layer in range(sizes[f"{side}_layers"]):
            name = f"model.{side}.layers.{layer}"
            attention(f"{name}.self_attn")
            if side == "decoder":
                attention(f"{name}.encoder_attn")
            linear(f"{name}.fc1", sizes[f"{side}_ffn_dim"], D, 2.0)
            linear(f"{name}.fc2", D, sizes[f"{side}_ffn_dim"], 2.0)
            norm(f"{name}.final_layer_norm")
    norm("model.decoder.layers.0.final_layer_norm", 2.0, 0.0)  # otherwise each token would predict itself
    heads: dict[str, Callable[[], None]] = {
        "ConditionalGeneration": lambda: draw("final_logits_bias", (1, V), 1.0),
        "SequenceClassification": lambda: (
            linear("classification_head.dense", D, D, 2.0),
            linear("classification_head.out_proj", labels, D, 4.0),
        )[0],
        "QuestionAnswering": lambda: linear("qa_outputs", 2, D, 4.0),
    }
    heads[kind]()
    if kind == "ConditionalGeneration":
        tensors["final_logits_bias"][0, 2] += 5.0  # </s> becomes more likely, so that texts end at various lengths
        tensors["final_logits_bias"][0, 4:260] -= 4.0  # tokens of one byte become less likely than words
    return tensors


def digest(folder: Path) -> str:
    """SHA-256 of the files' names and contents. Of weights, names and values are hashed, not the file's layout."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        total.update(path.name.encode())
        if path.suffix == ".safetensors":
            for name, tensor in sorted(load_file(path).items()):
                total.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + np.ascontiguousarray(tensor).tobytes())
        else:
            total.update(path.read_bytes())
    return total.hexdigest()
