"""Options of loading and of running that change how, not what, is computed."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from pellucid.core import Targets
from pellucid.hf import LMHFModel
from pellucid.testing import tiny_gpt2, tiny_llama, tiny_tokenizer


def prepare(model, made, **options):
    lm = LMHFModel(model, tokenizer=tiny_tokenizer(), forward_pass_batch_size=4, **options)
    lm.set_inputs_from_tokens(
        ["Why?\n" + made.templates[0]], Targets(target_response_strs=["Yes."])
    )
    return lm


def compare_compiled(model, made):
    compiled, plain = prepare(model, made, compile_model=True), prepare(model, made)
    ids = torch.randint(0, 384, (1, 5)).repeat(9, 1)
    ids[torch.arange(9), torch.arange(9) % 5] = torch.arange(9)
    ours, theirs = (lm.compute_loss_from_tokens(ids, made.PrefillCE()) for lm in (compiled, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    ours, theirs = (
        lm.compute_grad_from_tokens(made.PrefillCE(), ids[:2]) for lm in (compiled, plain)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    ours, theirs = (
        lm.compute_loss_from_tokens(ids, made.AnswerLength()) for lm in (compiled, plain)
    )
    assert torch.equal(ours, theirs)
    assert compiled.prefix_cache_report[0].is_shared


# What torch says to itself while it traces.
ignore_tracing = pytest.mark.filterwarnings("ignore:The .grad attribute")


@ignore_tracing
def test_a_compiled_model_gives_the_same_and_stays_what_it_is(made, monkeypatch):
    calls, compile_model = [], torch.compile

    def compile_eagerly(model):
        calls.append(model)
        return compile_model(model, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    model = tiny_llama()
    compare_compiled(model, made)
    assert calls == [model]
    assert type(model).__name__ == "LlamaForCausalLM"


@ignore_tracing
@pytest.mark.slow
@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_inductor_gives_the_same(build, made):
    compare_compiled(build(), made)


@pytest.fixture
def loaded(monkeypatch):
    """Record what from_pretrained is given, and give a tiny model."""
    given, model = {}, tiny_llama().requires_grad_(True).train()

    def load(name, **kwargs):
        given.update(kwargs, name=name)
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda module, *_: given.update(moved=True) or module
    )
    return given


@pytest.mark.parametrize(
    "kwargs",
    [
        {"device_map": "auto"},
        {"device_map": {"": 0}, "max_memory": {0: "1GiB"}},
        {"quantization_config": {"load_in_8bit": True}},
        {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}},
    ],
)
def test_placement_and_quantisation_are_left_to_the_loader(loaded, kwargs):
    lm = LMHFModel("some/model", tokenizer=tiny_tokenizer(), device="cpu", **kwargs)
    assert {name: loaded[name] for name in kwargs} == kwargs
    assert "moved" not in loaded
    assert not lm._model.training
    assert not any(weight.requires_grad for weight in lm._model.parameters())


def test_other_options_are_passed_on_and_the_model_is_moved(loaded):
    LMHFModel("some/model", tokenizer=tiny_tokenizer(), device="cpu", revision="abc")
    assert (loaded["revision"], loaded["moved"]) == ("abc", True)
