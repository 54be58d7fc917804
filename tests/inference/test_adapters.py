"""`load` merges LoRA adapters into the same weights as peft's merge_and_unload, or refuses them and says why."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bart_inference import CheckpointError, Model, generate, load, save
from bart_inference.tokenization import pad
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BartForConditionalGeneration, BartForSequenceClassification, PreTrainedModel

from bart_oneliner import revert
from tests.inference.folders import TEXTS, write_folder

# For each weight, peft and we add the same r float32 products (r: the rank), possibly in another order.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint that transformers wrote. All tests share it, so none may change it."""
    return write_folder(tmp_path_factory.mktemp("base"))


def trained(model: torch.nn.Module) -> None:
    """Sets all trainable parameters to random values, because peft's initial lora_B is zero and changes no weight."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) * 0.3 + ("magnitude" in name)


def write_adapter(
    base: Path, folder: Path, kind: type[PreTrainedModel] = BartForConditionalGeneration, **options: Any
) -> PreTrainedModel:
    """Has peft write an adapter to `folder`; returns the model into which peft merged it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns about a new head's random weights and about tied weights
        model = get_peft_model(kind.from_pretrained(base), LoraConfig(**options))
        trained(model)
        model.save_pretrained(folder)
        return PeftModel.from_pretrained(kind.from_pretrained(base), folder).merge_and_unload()


def assert_merged(model: Model, theirs: PreTrainedModel, base: Path) -> None:
    state, before = theirs.state_dict(), load_file(base / "model.safetensors")
    ours = revert(model.params, model.config)
    assert any(not np.array_equal(ours[name], before[name].numpy()) for name in before), "nothing was merged"
    for name, array in ours.items():
        if name in state:  # `revert` always gives final_logits_bias, which transformers' classifier does not have
            np.testing.assert_allclose(array, state[name].numpy(), rtol=0, atol=TOLERANCE, err_msg=name)


ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]
OPTIONS: dict[str, dict[str, Any]] = {
    "queries and values": {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 16},
    "every projection": {"target_modules": [*ATTENTION, "fc1", "fc2"], "r": 4, "lora_alpha": 32},
    "all-linear": {"target_modules": "all-linear", "task_type": "SEQ_2_SEQ_LM"},
    "rslora": {"target_modules": ["fc1"], "r": 4, "lora_alpha": 16, "use_rslora": True},
    "fan_in_fan_out": {"target_modules": ["fc1", "fc2"], "fan_in_fan_out": True},
    "a pattern of targets": {"target_modules": r".*decoder.*encoder_attn\.(q|k)_proj"},
    "some layers": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "different ranks": {
        "target_modules": ["q_proj", "fc1"],
        "rank_pattern": {"decoder.layers.1.self_attn.q_proj": 3, "fc1": 2},
        "alpha_pattern": {"fc1": 64},
    },
    "all biases": {"target_modules": ["q_proj"], "bias": "all"},
    "the targets' biases": {"target_modules": ["q_proj", "fc2"], "bias": "lora_only"},
    "lora_bias": {"target_modules": ["q_proj", "fc2"], "lora_bias": True},
    "modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["final_layer_norm"]},
    "DoRA": {"target_modules": ["q_proj", "fc2"], "use_dora": True},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_named_adapter_is_merged_as_peft_merges_it(base: Path, tmp_path: Path, case: str) -> None:
    theirs = write_adapter(base, tmp_path, **OPTIONS[case])
    assert_merged(load(base, adapter=tmp_path), theirs, base)


def test_the_merged_model_generates_the_tokens_of_the_one_that_peft_merged(base: Path, tmp_path: Path) -> None:
    theirs = write_adapter(base, tmp_path, **OPTIONS["every projection"])
    model = load(base, adapter=tmp_path)
    assert model.tokenizer is not None
    ids, mask = pad([model.tokenizer.encode(text).ids for text in TEXTS], model.config.pad_token_id)
    options: dict[str, Any] = {"max_length": 20, "min_length": 8, "num_beams": 2}
    ours = generate(model, ids, mask, **options).sequences
    expected = theirs.generate(torch.tensor(ids), attention_mask=torch.tensor(mask), **options)
    assert ours[:, : expected.shape[1]].tolist() == expected.tolist()


def test_an_adapter_beside_the_weights_is_merged(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "both")
    theirs = write_adapter(base, tmp_path / "both", **OPTIONS["queries and values"])
    assert_merged(load(tmp_path / "both"), theirs, base)


def test_an_adapter_that_stands_alone_loads_its_base_model_first(base: Path, tmp_path: Path) -> None:
    theirs = write_adapter(base, tmp_path, **OPTIONS["queries and values"])
    model = load(tmp_path)
    assert_merged(model, theirs, base)
    assert model.tokenizer is not None
    assert model.generation == load(base).generation


def test_an_adapters_tokenizer_wins_over_the_base_models(base: Path, tmp_path: Path) -> None:
    write_adapter(base, tmp_path, **OPTIONS["queries and values"])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, tmp_path)
    fields = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields | {"add_prefix_space": True}))
    with_space, without = load(tmp_path).tokenizer, load(base).tokenizer
    assert with_space is not None
    assert without is not None
    assert with_space.encode("weather").ids == without.encode(" weather").ids != without.encode("weather").ids


def test_a_classifier_gets_its_head_from_the_adapter(base: Path, tmp_path: Path) -> None:
    kind = BartForSequenceClassification
    options = {"target_modules": ["v_proj"], "modules_to_save": ["classification_head"], "task_type": "SEQ_CLS"}
    theirs = write_adapter(base, tmp_path, kind, **options)
    model = load(tmp_path)
    assert_merged(model, theirs, base)
    assert model.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_an_adapter_in_a_bin_file_is_merged(base: Path, tmp_path: Path) -> None:
    theirs = write_adapter(base, tmp_path, **OPTIONS["queries and values"])
    torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    assert_merged(load(base, adapter=tmp_path), theirs, base)


def test_half_precision_adapters_are_merged_in_float32(base: Path, tmp_path: Path) -> None:
    write_adapter(base, tmp_path, **OPTIONS["queries and values"])
    state = {name: tensor.half() for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items()}
    save_file(state, tmp_path / "adapter_model.safetensors")
    theirs = PeftModel.from_pretrained(BartForConditionalGeneration.from_pretrained(base), tmp_path).merge_and_unload()
    assert_merged(load(base, adapter=tmp_path), theirs, base)


def test_a_merged_model_is_saved_whole(base: Path, tmp_path: Path) -> None:
    theirs = write_adapter(base, tmp_path / "adapter", **OPTIONS["queries and values"])
    save(load(tmp_path / "adapter"), tmp_path / "whole")
    assert_merged(load(tmp_path / "whole"), theirs, base)


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def setting(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | fields))

    return change


def renamed(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = load_file(folder / "adapter_model.safetensors")
        save_file(
            {name.replace(old, new): tensor for name, tensor in state.items()}, folder / "adapter_model.safetensors"
        )

    return change


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "prefix tuning": (setting(peft_type="PREFIX_TUNING"), "peft_type 'PREFIX_TUNING' is not supported.*peft"),
    "AdapterHub's": (setting(peft_type=None), "peft_type None is not supported"),
    "PiSSA": (setting(init_lora_weights="pissa"), "init_lora_weights 'pissa' changes the base model's weights"),
    "rows of the embedding": (setting(trainable_token_indices=[5]), "trainable_token_indices is not supported"),
    "layers repeated": (setting(layer_replication=[[0, 1]]), "layer_replication is not supported"),
    "an option of a later peft": (setting(use_tomorrow=True), "use_tomorrow is not supported"),
    "another rank": (setting(r=5), r"the adapter's tensors of model.decoder.*asks for.*\(5, 24\)"),
    "no magnitudes": (setting(use_dora=True), "lora_magnitude_vector"),
    "a deeper model's": (
        renamed("layers.1", "layers.7"),
        "layers.7.encoder_attn.q_proj, which the checkpoint does not",
    ),
    "an embedding": (
        renamed("encoder.layers.0.self_attn.q_proj", "shared"),
        "model.shared.*an embedding, which is not",
    ),
    "not peft's names": (renamed("base_model.", ""), "does not begin with 'base_model.model.'"),
    "config is cut": (lambda folder: (folder / "adapter_config.json").write_text("{") and None, "not readable as JSON"),
    "no tensors": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "has neither adapter_model.safetensors nor adapter_model.bin",
    ),
    "a base model that is not there": (setting(base_model_name_or_path="/no/where"), "base model.*/no/where: no such"),
    "no base model": (setting(base_model_name_or_path=None), "base_model_name_or_path"),
}


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    write_adapter(base, folder, target_modules=["q_proj"], r=2)
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_an_adapter_that_cannot_be_merged_is_refused_by_name(adapter: Path, tmp_path: Path, case: str) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "copy"))
    change, message = REFUSED[case]
    change(folder)
    with pytest.raises(CheckpointError, match=message) as refusal:
        load(folder)
    assert str(folder) in str(refusal.value), "the message does not say which folder"


def test_another_kind_of_adapter_that_peft_wrote_is_refused(base: Path, tmp_path: Path) -> None:
    model = BartForConditionalGeneration.from_pretrained(base)
    config = IA3Config(target_modules=["k_proj", "fc2"], feedforward_modules=["fc2"])
    get_peft_model(model, config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="peft_type 'IA3' is not supported"):
        load(base, adapter=tmp_path)


def test_an_adapter_upon_an_adapter_is_refused(adapter: Path) -> None:
    with pytest.raises(CheckpointError, match="holds an adapter without weights"):
        load(adapter, adapter=adapter)


def test_a_folder_without_an_adapter_is_refused(base: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no adapter_config.json"):
        load(base, adapter=base)
