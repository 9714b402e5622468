import json

import pytest
import torch

from pellucid.core import ArgumentError
from pellucid.testing import tiny_bert, tiny_gpt2, tiny_llama
from pellucid.tptt import ModeError, TpttConfig, convert_sets_to_lists

FIELDS = {
    "base_model_name": "somebody/tiny",
    "target_modules_names": ["self_attn"],
    "force_attn_implementation": "sdpa",
    "operator_mode": "delta_product_kv_gelu_r",
    "max_self_attn_length": 64,
    "base_scale_attn": True,
    "mag_weight": 0.25,
    "cross_gate": True,
    "max_chunk_size": 16,
    "linear_precision": torch.bfloat16,
    "lora_config": {"r": 4, "target_modules": {"v_proj", "q_proj"}},
    "padding_side": "left",
    "bidirectional": True,
    "pooling_config": {"offsets": (0, 1)},
    "gate_granularity": "head",
}


@pytest.fixture(params=[tiny_llama, tiny_gpt2, tiny_bert])
def base_config(request):
    return request.param().config


def test_what_is_saved_is_what_is_loaded(base_config, tmp_path):
    config = TpttConfig(base_config, **FIELDS)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "tptt"
    for again in (TpttConfig.from_pretrained(tmp_path), TpttConfig.from_dict(config.to_dict())):
        for name in (*FIELDS, "recurrent_config", "base_model_config", "name_or_path"):
            assert getattr(again, name) == getattr(config, name), name
        assert again.read_base().to_dict() == base_config.to_dict()


def test_the_base_models_fields_can_be_read(base_config):
    config = TpttConfig(base_config)
    assert config.hidden_size == base_config.hidden_size
    assert config.vocab_size == base_config.vocab_size
    assert config.model_type == "tptt"
    assert config.architectures == ["TpttModel"]


@pytest.mark.parametrize("tied", [True, False])
def test_whether_the_head_is_tied_is_kept(tied):
    config = TpttConfig(tiny_llama(tie_word_embeddings=tied).config)
    assert config.tie_word_embeddings is tied
    assert TpttConfig.from_dict(config.to_dict()).tie_word_embeddings is tied


def test_the_parts_of_a_mode_are_read_from_its_name():
    config = TpttConfig(tiny_llama().config, operator_mode="delta_product_kv_gelu_r")
    assert config.recurrent_config == {
        "order": 2,
        "gate_type": "kv",
        "linear": False,
        "trick": "rotative",
    }
    config.recurrent_config["order"] = 5
    assert (
        TpttConfig(tiny_llama().config, operator_mode="delta_product").recurrent_config["order"]
        == 2
    )


def test_a_config_is_made_without_asking_anybody():
    config = TpttConfig(base_model_name="somebody/tiny")
    assert config.base_model_config is None
    assert config.name_or_path == "Titans-tiny"
    assert config.padding_side == "right"
    assert config.target_modules_names == ["attn", "self_attn", "attention"]


def test_a_directory_is_read_at_once(tmp_path):
    tiny_llama().config.save_pretrained(tmp_path)
    assert TpttConfig(base_model_name=str(tmp_path)).hidden_size == 32


def test_sets_and_tuples_become_lists_at_every_depth():
    given = {"a": {3, 1}, "b": [({"x"},), 2], "c": "text"}
    assert convert_sets_to_lists(given) == {"a": [1, 3], "b": [[["x"]], 2], "c": "text"}


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"operator_mode": "delta"}, ModeError, "Unknown mode 'delta'"),
        ({"linear_precision": "float31"}, ArgumentError, "no dtype is called 'float31'"),
        ({"padding_side": "top"}, ArgumentError, "padding_side must be left or right, got 'top'"),
        ({"base_model_config": {"hidden_size": 4}}, ArgumentError, "has no model_type"),
    ],
)
def test_bad_fields_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        TpttConfig(**{"base_model_config": tiny_llama().config, **options})
