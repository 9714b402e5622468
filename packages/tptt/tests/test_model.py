"""Models as files: what is loaded is what was saved."""

import copy
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from pellucid.core import CheckpointError
from pellucid.testing import tiny_gpt2, tiny_llama
from pellucid.tptt import (
    TpttConfig,
    TpttModel,
    find_embedding_lm,
    get_tptt_model,
    load_tptt_safetensors,
    save_tptt_safetensors,
)

# peft asks transformers for a property under its old name, and turns a flag for GPT-2 itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
]

BASES = {
    "llama": tiny_llama,
    "tied llama": lambda: tiny_llama(tie_word_embeddings=True),
    "gpt2": tiny_gpt2,
    "half": lambda: tiny_llama(dtype=torch.bfloat16),
}


@pytest.fixture(params=BASES)
def base(request):
    return BASES[request.param]()


def build(base, lora=False, **fields):
    adapted = ["c_attn"] if hasattr(base, "transformer") else ["q_proj", "v_proj"]
    options = {"r": 4, "lora_alpha": 8, "target_modules": adapted, "task_type": "CAUSAL_LM"}
    config = TpttConfig(
        base.config,
        base_model_name="somebody/tiny",
        force_attn_implementation="sdpa",
        lora_config=options if lora else None,
        **fields,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TpttModel(config, backbone=copy.deepcopy(base)).eval()
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight)
    return model


@pytest.mark.parametrize("lora", [False, True])
@torch.no_grad()
def test_a_model_is_loaded_as_it_was_saved(base, lora, prompt, tmp_path):
    model = build(base, lora, operator_mode="delta_product")
    model.set_mag_weight(0.3)
    expected = model(prompt).logits
    model.save_pretrained(str(tmp_path / "new" / "folder"))
    for load in (TpttModel.from_pretrained, AutoModelForCausalLM.from_pretrained):
        again = load(str(tmp_path / "new" / "folder"))
        assert isinstance(again, TpttModel)
        assert not again.training
        assert again.mag_weight == again.config.mag_weight == 0.3
        assert torch.equal(again(prompt).logits, expected)
    heads = (again.get_input_embeddings().weight, again.get_output_embeddings().weight)
    assert (heads[0] is heads[1]) == base.config.tie_word_embeddings


@torch.no_grad()
def test_adapters_can_be_saved_alone(base, prompt, tmp_path):
    model = build(base, lora=True)
    expected = model(prompt).logits
    model.save_pretrained(str(tmp_path), adapters_only=True)
    assert not (tmp_path / "model.safetensors").exists()
    assert all("lora_" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    again = TpttModel.from_pretrained(str(tmp_path), backbone=copy.deepcopy(base))
    assert torch.equal(again(prompt).logits, expected)


@torch.no_grad()
def test_adapters_can_be_merged(prompt, tmp_path):
    model = build(tiny_llama(), lora=True)
    expected = model(prompt).logits
    model.merge_lora()
    assert not any("lora_" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(model(prompt).logits, expected, atol=2e-5, rtol=2e-5)
    model.save_pretrained(str(tmp_path))
    again = TpttModel.from_pretrained(str(tmp_path))
    assert torch.equal(again(prompt).logits, model(prompt).logits)


def test_only_adapters_are_trained(prompt):
    model = build(tiny_llama(), lora=True).train()
    model(prompt, labels=prompt).loss.backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.{}.self_attn.base_attn.{}.weight",
        "base_model.model.model.layers.{}.self_attn.base_attn.{}.weight",
        "tptt_model.base_model.model.model.layers.{}.self_attn.base_attn.{}.weight",
        "tptt_model.model.layers.{}.self_attn.{}.weight",
        "backbone.model.layers.{}.self_attn.base_attn.{}.weight",
        "model.layers.{}.self_attn.{}.weight",
    ],
)
def test_weights_are_found_under_the_names_that_others_gave_them(name, tmp_path):
    weights = {
        name.format(layer, which): torch.full((size, 32), layer + 0.5)
        for layer in range(2)
        for which, size in (("q_proj", 32), ("k_proj", 16))
    }
    save_file(weights, tmp_path / "model.safetensors")
    model = get_tptt_model(tiny_llama(), tiny_llama().config)[0]
    assert load_tptt_safetensors(str(tmp_path), model) is model
    for layer in range(2):
        attn = model.model.layers[layer].self_attn.base_attn
        assert (attn.q_proj.weight == layer + 0.5).all()
        assert (attn.k_proj.weight == layer + 0.5).all()


@pytest.mark.parametrize(
    "name",
    [
        "model.model.layers.{}.self_attn.base_attn.{}.lora_{}.default.weight",
        "base_model.model.model.layers.{}.self_attn.base_attn.{}.lora_{}.weight",
        "tptt_model.base_model.model.model.layers.{}.self_attn.{}.lora_{}.default.weight",
    ],
)
def test_adapters_are_found_under_the_names_that_others_gave_them(name, tmp_path, caplog):
    shapes = {("q_proj", "A"): (4, 32), ("q_proj", "B"): (32, 4)}
    shapes |= {("v_proj", "A"): (4, 32), ("v_proj", "B"): (16, 4)}
    weights = {
        name.format(layer, *which): torch.full(shape, 0.5)
        for layer in range(2)
        for which, shape in shapes.items()
    }
    save_file(weights, tmp_path / "adapter_model.safetensors")
    model = build(tiny_llama(), lora=True)
    caplog.clear()
    load_tptt_safetensors(str(tmp_path), model.backbone)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    lora = [weight for name, weight in model.named_parameters() if "lora_" in name]
    assert len(lora) == 8
    assert all((weight == 0.5).all() for weight in lora)


def test_what_does_not_fit_is_told(tmp_path, caplog):
    save_file({"else.weight": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    model = build(tiny_llama(), lora=True)
    with caplog.at_level(logging.WARNING):
        load_tptt_safetensors(str(tmp_path), model.backbone)
    assert "Missing weights of adapters: model.layers.0" in caplog.text
    assert "Unexpected keys: else.weight" in caplog.text
    save_file({"lm_head.weight": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"other shapes: lm_head.weight \(\(2,\), here"):
        load_tptt_safetensors(str(tmp_path), model.backbone)
    (tmp_path / "empty").mkdir()
    assert load_tptt_safetensors(str(tmp_path / "empty"), model.backbone) is None


def test_a_file_that_lacks_weights_is_refused(tmp_path):
    build(tiny_llama()).save_pretrained(str(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"it lacks \['model.norm.weight'\]"):
        TpttModel.from_pretrained(str(tmp_path))


def test_a_model_without_adapters_has_none_to_save(tmp_path):
    with pytest.raises(CheckpointError, match="has no adapters"):
        build(tiny_llama()).save_pretrained(str(tmp_path), adapters_only=True)


def test_adapters_can_be_written_by_themselves(tmp_path):
    model = build(tiny_llama(), lora=True)
    save_tptt_safetensors(model, str(tmp_path / "deep"))
    other = build(tiny_llama(), lora=True)
    for name, weight in other.named_parameters():
        if "lora_" in name:
            weight.data.zero_()
    load_tptt_safetensors(str(tmp_path / "deep"), other.backbone)
    for (name, weight), (_, own) in zip(
        model.named_parameters(), other.named_parameters(), strict=True
    ):
        assert torch.equal(weight, own), name


@torch.no_grad()
def test_a_converted_model_generates(prompt):
    model = build(tiny_llama())
    options = {"max_new_tokens": 4, "pad_token_id": 2, "do_sample": False, "eos_token_id": None}
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    assert out.shape == (2, 15)
    assert model.linear_cache[0]["recurrent_state"].shape == (2, 2, 8, 8)


def test_the_head_is_tied_only_where_the_base_ties_it():
    model = build(tiny_llama())
    model.retie_lm_after_load()
    embedding = find_embedding_lm(model)
    assert embedding is model.get_input_embeddings()
    assert model.get_output_embeddings().weight is not embedding.weight


def test_the_callers_model_is_loaded_by_its_directory(tmp_path, prompt):
    base = tiny_llama()
    base.save_pretrained(tmp_path)
    config = TpttConfig(base_model_name=str(tmp_path), mag_weight=0.0)
    model = TpttModel(config).eval()
    assert model.backbone.config._attn_implementation == "eager"
    torch.testing.assert_close(model(prompt).logits, base(prompt).logits)
