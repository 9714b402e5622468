"""Bad input gives one clear error, before the first forward pass."""

import jaxtyping
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import InputsNotSetError, MessageTargets, PellucidError, Targets
from pellucid.hf import (
    ClassifierHFModel,
    CLIPTextEncoderHFModel,
    EncoderHFModel,
    HuggingFaceTokenInputManager,
    LMHFModel,
    ModelLoadError,
)
from pellucid.testing import (
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_tokenizer,
    tiny_wordpiece_tokenizer,
)


@pytest.fixture
def lm():
    model = LMHFModel(tiny_llama(), tokenizer=tiny_tokenizer())
    model._forward = lambda *_, **__: pytest.fail("a forward pass was made")
    return model


def test_a_tokenizer_in_the_place_of_a_device_is_named(monkeypatch):
    # What a user without the type hook of the tests sees.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"device must be .* Pass a tokenizer by name: tokenizer="):
        LMHFModel(tiny_llama(), tiny_tokenizer())


def test_unknown_path(tmp_path):
    with pytest.raises(ModelLoadError, match="no model can be loaded from"):
        LMHFModel(str(tmp_path / "nothing"), tokenizer=tiny_tokenizer())
    with pytest.raises(OSError, match="no tokenizer can be loaded from"):
        LMHFModel(tiny_llama(), tokenizer=str(tmp_path / "nothing"))


def test_unknown_name():
    with pytest.raises(OSError, match="no model can be loaded from 'no-such-model'"):
        LMHFModel("no-such-model", tokenizer=tiny_tokenizer())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected the name or path of a model, or a model object, got None"),
        ({"model_name": 3}, "got 3"),
        ({"loaded_model": "llama"}, "without a tokenizer"),
        ({"model_name": "llama", "loaded_model": "llama"}, "given twice"),
        ({"loaded_model": "llama", "tokenizer": "own", "revision": "x"}, "apply to loading"),
        ({"loaded_model": "llama", "tokenizer": "own", "dtype": torch.float16}, "not converted"),
        ({"loaded_model": "llama", "tokenizer": "own", "device": "meta"}, "not moved"),
        ({"loaded_model": "llama", "tokenizer": "own", "consistency": "some"}, "got 'some'"),
        ({"loaded_model": "llama", "tokenizer": "own", "forward_pass_batch_size": 0}, "least 1"),
        ({"loaded_model": "llama", "tokenizer": "own", "use_eager_attention": True}, "eager"),
        (
            {"loaded_model": "llama", "tokenizer": "own", "chat_template_kwargs": {"tokenize": 1}},
            "cannot hold 'tokenize'",
        ),
    ],
)
def test_arguments_without_meaning(options, message):
    parts = {"llama": tiny_llama(), "own": tiny_tokenizer()}
    given = {
        name: parts.get(value, value) if isinstance(value, str) else value
        for name, value in options.items()
    }
    with pytest.raises(ValueError, match=message) as caught:
        LMHFModel(**given)
    assert isinstance(caught.value, PellucidError)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_absent_cuda(tmp_path):
    with pytest.raises(ValueError, match="there is no CUDA here"):
        LMHFModel(str(tmp_path), device="cuda", tokenizer=tiny_tokenizer())


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
@pytest.mark.parametrize("model_class", [EncoderHFModel, ClassifierHFModel, CLIPTextEncoderHFModel])
def test_absent_cuda_for_every_model(model_class, tmp_path):
    with pytest.raises(ValueError, match=r"device='cuda', but there is no CUDA here\. Use 'cpu'"):
        model_class(str(tmp_path), device="cuda", tokenizer=tiny_wordpiece_tokenizer())


def build_classifier():
    config = BertConfig(
        vocab_size=len(tiny_wordpiece_tokenizer()),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng():
        return BertForSequenceClassification(config)


@pytest.mark.parametrize(
    ("model_class", "build"),
    [(EncoderHFModel, tiny_bert), (ClassifierHFModel, build_classifier)],
)
def test_readers_refuse_what_does_not_fit_before_any_pass(model_class, build):
    with pytest.raises(ValueError, match=r"ids, the model embeds \d+: they do not belong together"):
        model_class(build(), tokenizer=tiny_tokenizer())
    model = model_class(build(), tokenizer=tiny_wordpiece_tokenizer())
    model._model.forward = lambda *_, **__: pytest.fail("a forward pass was made")
    with pytest.raises(ValueError, match="target response '' has no tokens"):
        model.set_inputs_from_tokens([f"The {P}"], Targets(target_response_strs=[""]))
    with pytest.raises(ValueError, match=r"positions, the model has 512"):
        model.set_inputs_from_tokens(["cat " * 600 + P])
    with pytest.raises(ValueError, match=r"an input takes \d+ positions, the model has 512"):
        model(["cat " * 600])

    class Closed(torch.nn.Module):
        config = BertConfig()

        def forward(self, input_ids):
            return input_ids

        weight = torch.nn.Parameter(torch.zeros(1))

    Closed.__name__ = "ClosedForSequenceClassification"
    with pytest.raises(TypeError, match="takes no inputs_embeds"):
        model_class(Closed(), tokenizer=tiny_wordpiece_tokenizer())


def test_models_and_tokenizers_that_do_not_fit():
    with pytest.raises(ValueError, match="384 ids, the model embeds 300"):
        LMHFModel(tiny_llama(vocab_size=300), tokenizer=tiny_tokenizer())
    LMHFModel(tiny_llama(padded_rows=16), tokenizer=tiny_tokenizer())

    class Closed(torch.nn.Module):
        def forward(self, input_ids):
            return input_ids

        weight = torch.nn.Parameter(torch.zeros(1))

    with pytest.raises(TypeError, match="takes no inputs_embeds"):
        LMHFModel(Closed(), tokenizer=tiny_tokenizer())
    with pytest.raises(TypeError, match="no fast tokenizer"):
        LMHFModel(tiny_llama(), tokenizer=[])


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ([], "at least one template"),
        (["no slot"], "holds .* 0 times"),
        ([f"{P} {P}"], "the same kind of space stand before every placeholder"),
        ([f"{P} " + "word " * 600], "positions, the model has 512"),
        ([[{"role": "user"}]], "keys 'role' and 'content'"),
    ],
)
def test_templates(lm, templates, message):
    with pytest.raises(ValueError, match=message):
        lm.set_inputs_from_tokens(templates)


def test_a_chat_template_that_drops_the_slot_or_refuses():
    for chat, message in [
        ("nothing", "renders .* 0 times"),
        ("{{ messages[0]['content'] }} {{ messages[0]['content'] }}", "2 times"),
        ("{{ raise_exception('no system turns') }}", "no system turns"),
    ]:
        lm = LMHFModel(
            tiny_llama(), tokenizer=tiny_tokenizer(), chat_template_kwargs={"chat_template": chat}
        )
        with pytest.raises(ValueError, match=message):
            lm.set_inputs_from_tokens([f"Tell me {P} now"])


def test_conversations_need_a_chat_template():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    lm = LMHFModel(tiny_llama(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="no chat template, so a conversation"):
        lm.set_inputs_from_tokens([[{"role": "user", "content": P}]])
    with pytest.raises(ValueError, match="no chat template"):
        LMHFModel(tiny_llama(), tokenizer=tokenizer, chat_template_kwargs={"x": 1})


@pytest.mark.parametrize("flow", ["set_inputs_from_tokens", "set_inputs_from_texts"])
def test_targets(lm, flow):
    set_inputs = getattr(lm, flow)
    with pytest.raises(ValueError, match="target response '' has no tokens"):
        set_inputs([f"Tell me {P}"], Targets(target_response_strs=[""]))
    with pytest.raises(ValueError, match="2 templates need 2 targets, got 1"):
        set_inputs([f"Tell me {P}"] * 2, Targets(target_response_strs=["Yes"]))
    with pytest.raises(ValueError, match="id 384, the model embeds 0 to 383"):
        set_inputs([P], Targets(target_response_toks=torch.tensor([[384]])))
    with pytest.raises(ValueError, match="is empty"):
        set_inputs([P], Targets(target_response_toks=torch.zeros((1, 0), dtype=torch.int64)))


def test_missing_targets(lm, made, candidates):
    lm.set_inputs_from_tokens([f"Tell me {P}"])
    with pytest.raises(ValueError, match="target response is to be appended"):
        lm.compute_loss_from_tokens(candidates, made.PrefillCE())
    with pytest.raises(ValueError, match="target response is to be appended"):
        lm.invoke_from_texts(["x"], require_target_prefill=True)


def test_compute_before_inputs_are_set(lm, made, candidates):
    with pytest.raises(InputsNotSetError, match="set_inputs_from_tokens"):
        lm.compute_loss_from_tokens(candidates, made.PrefillCE())


def test_candidates(lm, made, candidates):
    lm.set_inputs_from_tokens([f"Tell me {P}"], Targets(target_response_strs=["Yes"]))
    with pytest.raises(ValueError, match="the model embeds 0 to 383"):
        lm.compute_loss_from_tokens(candidates + 300, made.PrefillCE())
    with pytest.raises(ValueError, match="hold no token"):
        lm.compute_loss_from_tokens(candidates[:0], made.PrefillCE())
    with pytest.raises(TypeError, match="n_candidates trigger_pos"):
        lm.compute_loss_from_tokens(candidates.float(), made.PrefillCE())
    with pytest.raises(ValueError, match=r"takes 6\d\d positions"):
        lm.compute_loss_from_tokens(candidates.repeat(1, 100), made.PrefillCE())


def test_prompts(lm):
    with pytest.raises(ValueError, match=r"an input takes .* positions"):
        lm.invoke_from_texts(["word " * 600], require_generation=True)
    with pytest.raises(ValueError, match="exactly one of input_ids and input_embeds"):
        lm.invoke_from_tokens()
    with pytest.raises(TypeError, match="requires_generation"):
        lm.invoke_from_texts(["x"], requires_generation=True)


def test_attentions_need_eager_attention(lm):
    with pytest.raises(ValueError, match="use_eager_attention=True"):
        lm.invoke_from_tokens(torch.tensor([[1, 2]]), require_attentions=True)


def test_logits_of_a_trigger_that_nothing_precedes(candidates):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    lm = LMHFModel(tiny_gpt2(), tokenizer=tokenizer)
    lm.set_inputs_from_tokens([f"{P} so"])
    with pytest.raises(ValueError, match="nothing stands before the trigger"):
        lm.compute_logits_from_tokens(candidates, return_trigger_logits_only=True)
    with pytest.raises(ValueError, match="exclude each other"):
        lm.compute_logits_from_tokens(candidates, False, True, True)


def test_inputs_managers(candidates):
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    rows = tokenizer([f"Tell me {P} now"])["input_ids"]
    with pytest.raises(ValueError, match="got them 2 times"):
        HuggingFaceTokenInputManager(tokenizer, templates_ids=rows, tok_ids=rows, model=model)
    with pytest.raises(ValueError, match="embed_func, or the model"):
        HuggingFaceTokenInputManager(tokenizer, templates_ids=rows)
    with pytest.raises(ValueError, match="1 templates need 1 targets, got 2"):
        HuggingFaceTokenInputManager(
            tokenizer,
            templates_ids=rows,
            model=model,
            targets=Targets(target_response_strs=["a", "b"]),
        )
    manager = HuggingFaceTokenInputManager(tokenizer, templates_ids=rows, model=model)
    with pytest.raises(ValueError, match="got neither"):
        manager.get_triggered_inputs(0)
    with pytest.raises(ValueError, match="target response"):
        manager.get_triggered_inputs(0, candidates, do_append_embeds=True)


def test_encoders_are_no_language_models():
    with pytest.raises(TypeError, match="LMHFModel needs a causal language model"):
        LMHFModel(tiny_bert(), tokenizer=tiny_wordpiece_tokenizer())


def test_message_targets_hold_what_is_prefilled(lm):
    assert MessageTargets().target_response_toks is None
