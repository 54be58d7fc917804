"""What docs/relatives.md says about PLBart, mBART, Pegasus, Marian and Blenderbot holds for transformers' models."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "relatives.md").read_text(encoding="utf-8")
TABLE = PAGE[PAGE.index("## Others of the family") :]
CLASSES = {"PLBart": "PLBart", "mBART": "MBart", "Pegasus": "Pegasus", "Marian": "Marian", "Blenderbot": "Blenderbot"}
TINY = {"vocab_size": 30, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 10}
TINY |= {"encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "encoder_attention_heads": 2, "decoder_attention_heads": 2}


@pytest.mark.parametrize("name", CLASSES)
def test_the_table_of_others_is_what_transformers_has(name: str) -> None:
    """Checks the table's columns about norms and positions. An initial model's norms have weight 1 and bias 0."""
    [cells] = [row.split("|")[2:6] for row in TABLE.splitlines() if row.startswith(f"| {name} |")]
    norm, embedding_norm, last_norm, positions = (cell.strip() for cell in cells)
    config = getattr(transformers, f"{CLASSES[name]}Config")(**TINY, pad_token_id=1, eos_token_id=2)
    model = getattr(transformers, f"{CLASSES[name]}Model")(config).eval()
    encoder = model.encoder
    assert hasattr(encoder, "layernorm_embedding") == (embedding_norm == "yes")
    assert hasattr(encoder, "layer_norm") == (last_norm == "yes")
    table = encoder.embed_positions.weight.detach().numpy()
    [first] = re.findall(r"from (?:row )?(\d)", positions)
    assert len(table) == TINY["max_position_embeddings"] + int(first)
    waves = np.allclose(np.square(table).sum(1), TINY["d_model"] / 2, atol=1e-5)  # sine² + cosine² = 1
    assert waves == positions.startswith("sines"), positions
    with torch.no_grad():  # the output of a layer that ends with a norm has mean 0 in every row
        mean = encoder.layers[0](torch.randn(1, 4, 8) + 3.0, None)[0].mean(-1).abs().max()
    assert (mean < 1e-4) == (norm == "after"), (
        f"norm {norm!r} in the table, but the mean of a layer's output is {mean:.1e}"
    )
