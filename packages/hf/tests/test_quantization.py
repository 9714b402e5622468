"""Weights of 8 and 4 bits, with the real bitsandbytes."""

import pytest
import torch
from transformers import BitsAndBytesConfig

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER, Targets
from pellucid.hf import LMHFModel
from pellucid.testing import tiny_llama, tiny_tokenizer

# It says so for every type but float16.
pytestmark = pytest.mark.filterwarnings("ignore:MatMul8bitLt. inputs will be cast")

WIDTHS = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny_llama(**WIDTHS).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture
def ids():
    return torch.randint(4, 300, (5, 6), generator=torch.Generator().manual_seed(0))


def load(folder, **options):
    lm = LMHFModel(folder, device="cpu", **options)
    set_inputs(lm)
    return lm


def set_inputs(lm):
    lm.set_inputs_from_tokens(
        [f"Tell me {OPTIMIZED_TRIGGER_PLACEHOLDER} now"],
        Targets(target_response_strs=["Yes, it is."]),
    )


def dequantized(quantized, folder):
    """The same model with the weights that its four bits stand for, in float32."""
    from bitsandbytes.functional import dequantize_4bit

    lm = load(folder)
    plain = dict(lm._model.named_modules())
    for name, module in quantized._model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            plain[name].weight.data = dequantize_4bit(module.weight, state).float()
    return lm


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_four_bits_are_computed_with_as_the_weights_they_stand_for(made, folder, ids, kind, nested):
    options = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested
    )
    lm = load(folder, quantization_config=options)
    assert type(lm._model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    plain, loss = dequantized(lm, folder), made.PrefillCE()
    expected = plain.compute_loss_from_tokens(ids, loss)
    torch.testing.assert_close(lm.compute_loss_from_tokens(ids, loss), expected, atol=1e-4, rtol=0)
    assert lm.prefix_cache_report[0].is_shared
    # After passes without gradients: it is then that some CPUs lose them.
    grad = plain.compute_grad_from_tokens(loss, ids[:1])
    torch.testing.assert_close(
        lm.compute_grad_from_tokens(loss, ids[:1]),
        grad,
        atol=1e-3 * float(grad.abs().max()),
        rtol=0,
    )


def test_eight_bits_lose_little(made, folder, ids):
    lm = load(folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    assert type(lm._model.model.layers[0].mlp.up_proj).__name__ == "Linear8bitLt"
    plain, loss = load(folder), made.PrefillCE()
    torch.testing.assert_close(
        lm.compute_loss_from_tokens(ids, loss),
        plain.compute_loss_from_tokens(ids, loss),
        atol=0.05,
        rtol=0,
    )
    grads = [one.compute_grad_from_tokens(loss, ids[:1]).flatten() for one in (lm, plain)]
    assert float(torch.nn.functional.cosine_similarity(*grads, dim=0)) > 0.98


def test_a_model_laid_out_for_inference_is_refused_where_gradients_would_be_zero(made, folder, ids):
    from transformers import AutoModelForCausalLM

    options = BitsAndBytesConfig(load_in_4bit=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=options)
    lm, loss = LMHFModel(model, tokenizer=tiny_tokenizer()), made.PrefillCE()
    set_inputs(lm)
    assert torch.isfinite(lm.compute_loss_from_tokens(ids, loss)).all()
    # What a CPU with bfloat16 products does by itself, on the others is said here.
    model.model.layers[0].mlp.up_proj.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match=r"gradients.*would be zero.*support_avx512bf16_for_cpu"):
        lm.compute_grad_from_tokens(loss, ids[:1])
