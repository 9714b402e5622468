import pytest

from pellucid.core import ArgumentError
from pellucid.testing import tiny_bert, tiny_gpt2, tiny_llama
from pellucid.tptt import NoTargetError, TpttConfig, TpttModel, make_lora_config

# peft asks transformers in a way that it is about to give up
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.mark.parametrize(
    ("make", "adapted"),
    [
        (tiny_llama, ["k_proj", "o_proj", "q_proj", "v_proj"]),
        (tiny_gpt2, ["c_attn", "c_proj"]),
        (tiny_bert, ["key", "query", "value"]),
    ],
)
def test_the_projections_of_attention_are_adapted(make, adapted):
    assert make_lora_config(make(), 4) == {
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": adapted,
    }


def test_a_converted_model_takes_it():
    base = tiny_llama()
    lora = make_lora_config(base, 2, alpha=3.0, dropout=0.1, adapted=["up_proj"])
    model = TpttModel(TpttConfig(base.config, lora_config=lora), backbone=base)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * base.config.num_hidden_layers
    assert all("up_proj.lora_" in name for name in trained)
    assert model.config.lora_config["lora_alpha"] == 3.0


def test_bad_arguments_are_refused():
    with pytest.raises(ArgumentError, match="rank of adapters must be 1 or more, got 0"):
        make_lora_config(tiny_llama(), 0)
    with pytest.raises(NoTargetError, match=r"no module of \['attn'\]"):
        make_lora_config(tiny_llama(), 2, attention=["attn"])
