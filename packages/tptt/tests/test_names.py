"""The names, arguments and defaults that users of tptt know, one line for each."""

import inspect

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel, TrainerCallback

import pellucid.tptt as package
from pellucid.tptt import configuration_tptt, modeling_tptt, train_tptt

_NO = inspect.Parameter.empty
F32 = torch.float32
LIZA = {
    "operator_mode": "delta_rule",
    "recurrent_config": None,
    "max_self_attn_length": None,
    "base_scale_attn": False,
    "mag_weight": 0.5,
    "cross_gate": False,
    "max_chunk_size": 64,
}


def needed(names):
    return dict.fromkeys(names.split(), _NO)


CONFIGURATION = {
    "TpttConfig": {
        "base_model_config": None,
        "base_model_name": "meta-llama/Llama-3.2-1B",
        "name_or_path": None,
        "target_modules_names": None,
        "force_attn_implementation": "eager",
        "operator_mode": "delta_rule",
        "max_self_attn_length": None,
        "base_scale_attn": False,
        "mag_weight": 0.5,
        "cross_gate": False,
        "max_chunk_size": 64,
        "linear_precision": "float32",
        "lora_config": None,
        "padding_side": None,
        "bidirectional": False,
        "pooling_config": None,
    },
    "convert_sets_to_lists": needed("obj"),
    "extract_template_variables": needed("template"),
    "generate_model_card": needed("path config"),
    "get_mode_name": {"order": 1, "gate_type": "k", "linear": True, "trick": "derivative"},
    "parse_mode_name": needed("name"),
}
MODELING = {
    "CausalAvgPool1d": {**needed("output_size"), "offsets": (0, 1, 2), "mode": "replicate"},
    "CausalAvgPool1d.forward": needed("x"),
    "LCache": {},
    "LCache.reset": {},
    "LCache.update": needed("layer_idx"),
    "LiZAttention": {
        **needed("base_attn layer_idx base_config"),
        "linear_cache": None,
        **LIZA,
        "linear_precision": "float32",
        "padding_side": "right",
        "disable_linear_attn": False,
        "bidirectional": False,
        "pooling_config": None,
    },
    "LiZAttention.forward": {**needed("hidden_states"), "attention_mask": None},
    "LinearAttention": {
        **needed("hidden_dim num_heads"),
        "head_dim": None,
        "num_key_value_heads": None,
        "num_key_value_groups": None,
        "bias": True,
        "dropout": None,
        "linear_precision": F32,
        "padding_side": "right",
        "shared_attn": False,
        "layer_idx": 0,
        "operator_mode": "delta_rule",
        "recurrent_config": None,
        "linear_cache": None,
        "max_chunk_size": 64,
        "bidirectional": False,
        "pooling_config": None,
    },
    "LinearAttention.forward": {**needed("x"), "attn_mask": None, "out_proj": None},
    "LinearAttentionOp": {
        **needed("layer_idx"),
        "operator_mode": "delta_rule",
        "recurrent_config": None,
        "max_chunk_size": 64,
        "linear_cache": None,
        "linear_precision": F32,
    },
    "LinearAttentionOp.chunk_delta_product_forward": {
        **needed("query key value beta_gate chunk_size"),
        "n": 1,
        "trick": "derivative",
        "linear": True,
        "initial_state": None,
        "use_checkpoint": True,
        "linear_precision": F32,
    },
    "LinearAttentionOp.compute_gate": needed("beta"),
    "LinearAttentionOp.forward": needed("q k v beta"),
    "LinearAttentionOp.get_cache": needed("use_cache"),
    "LinearAttentionOp.save_cache": needed("use_cache q k v gate state"),
    "TpttModel": needed("config"),
    "TpttModel.forward": {"input_ids": None, "attention_mask": None, "labels": None},
    "TpttModel.from_pretrained": {},
    "TpttModel.generate": {},
    "TpttModel.inject_liza_attention": {**needed("backbone config"), "linear_cache": None},
    "TpttModel.retie_lm_after_load": {},
    "TpttModel.save_pretrained": needed("path"),
    "apply_linear_attention_mask": {**needed("attention_mask v"), "padding_side": "right"},
    "chunk_sequence": needed("x num_chunks chunk_size"),
    "describe": {**needed("x"), "name": "tensor"},
    "ensure_stability": {**needed("tensor"), "min_val": -10000.0, "max_val": 10000.0},
    "expand_virtual_tokens": {**needed("x n"), "mode": "derivative"},
    "extract_layer_idx": needed("module_name"),
    "fast_invert_matrix": {**needed("tri_tensor"), "dtype": F32},
    "find_embedding_lm": needed("module"),
    "get_tptt_model": {
        **needed("model base_config"),
        "liza_attention": package.LiZAttention,
        "target_modules": None,
        "linear_cache": None,
        "operator_mode": "delta_rule",
        "recurrent_config": None,
        "base_scale_attn": False,
        "mag_weight": 0.5,
        "cross_gate": False,
        "max_chunk_size": 64,
        "linear_precision": F32,
        "max_self_attn_length": None,
        "padding_side": "right",
        "bidirectional": False,
        "pooling_config": None,
    },
    "get_valid_chunk_size": needed("total_l chunk_size"),
    "load_tptt_safetensors": {**needed("repo_or_path model"), "token": None},
    "match_dim": needed("x dim target_size"),
    "sequential_delta_product_scan": needed(
        "q_chunks w u n_orders linear_activation current_chunk_size initial_recurrent_state "
        "linear_precision use_checkpoint"
    ),
    "soft_clamp": {**needed("x"), "min_val": 1e-06, "max_val": 0.999999},
    "split_qkv": needed("base_attn qkv"),
    "truncate_attention_mask": needed("hidden_states attention_mask max_length"),
    "unlinear_activation": {**needed("x"), "scale": 2.0},
}
TRAINING = {
    "LiZACallback": {
        **needed("model"),
        "mode": "gradual",
        "initial_weight": 0.0,
        "final_weight": 0.5,
        "transition_step": 100,
        "weight_list": None,
        "switch_period": 1,
    },
    "LiZACallback.on_log": {**needed("args state control"), "logs": None},
    "LiZACallback.on_step_end": needed("args state control"),
    "SaveBestModelCallback": {},
    "SaveBestModelCallback.on_evaluate": {**needed("args state control"), "metrics": None},
    "ensure_int": needed("value"),
}
CASES = [
    pytest.param(module, name, arguments, id=name)
    for module, known in (
        (configuration_tptt, CONFIGURATION),
        (modeling_tptt, MODELING),
        (train_tptt, TRAINING),
    )
    for name, arguments in known.items()
]


@pytest.mark.parametrize(("module", "name", "arguments"), CASES)
def test_it_is_called_as_users_call_it(module, name, arguments):
    owner, _, method = name.partition(".")
    assert getattr(package, owner) is getattr(module, owner)
    found = getattr(module, owner)
    parameters = inspect.signature(getattr(found, method) if method else found).parameters
    own = {
        each.name: each.default
        for each in parameters.values()
        if each.kind is each.POSITIONAL_OR_KEYWORD and each.name != "self"
    }
    assert list(own)[: len(arguments)] == list(arguments)
    # what is ours comes after, and need not be given
    assert all(own[extra] is not _NO for extra in list(own)[len(arguments) :])
    for argument, default in arguments.items():
        assert own[argument] == default, argument


def test_classes_are_of_the_kinds_that_programs_expect():
    assert issubclass(package.TpttConfig, PretrainedConfig)
    assert issubclass(package.TpttModel, PreTrainedModel)
    assert package.TpttModel.config_class is package.TpttConfig
    assert package.TpttConfig.model_type == "tptt"
    assert package.TpttConfig.architectures == ["TpttModel"]
    assert package.TpttConfig.auto_map == {
        "AutoConfig": "configuration_tptt.TpttConfig",
        "AutoModelForCausalLM": "modeling_tptt.TpttModel",
    }
    for callback in (package.LiZACallback, package.SaveBestModelCallback):
        assert issubclass(callback, TrainerCallback)
    for name in ("LinearAttention", "LinearAttentionOp", "LiZAttention", "CausalAvgPool1d"):
        assert issubclass(getattr(package, name), torch.nn.Module)


def test_the_published_modes_are_what_they_were():
    plain = {"order": 1, "gate_type": "k", "linear": True, "trick": "derivative"}
    twice = {**plain, "order": 2}
    assert {
        "delta_rule": plain,
        "delta_rule_v": {**plain, "gate_type": "v"},
        "delta_rule_kv": {**plain, "gate_type": "kv"},
        "delta_rule_gelu": {**plain, "linear": False},
        "delta_product": twice,
        "delta_product_r": {**twice, "trick": "rotative"},
        "delta_product_c": {**twice, "trick": "combined"},
    } == package.TpttConfig.RECURRENT_MODES
