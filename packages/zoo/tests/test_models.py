import logging
import socket
import warnings
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from pellucid import zoo
from pellucid.core import PellucidError, UnknownNameError

NEUTRAL = " ! ! ! ! ! ! ! !"
Loaded = tuple[LlamaForCausalLM, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return zoo.load("tiny-chat")


def _prompts(tokenizer: PreTrainedTokenizerFast, questions: Sequence[str]) -> list[str]:
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in questions
    ]


def _answers(loaded: Loaded, questions: Sequence[str]) -> list[str]:
    model, tokenizer = loaded
    prompts = _prompts(tokenizer, questions)
    inputs = tokenizer(prompts, padding=True, add_special_tokens=False, return_tensors="pt")
    output = model.generate(**inputs)
    return tokenizer.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )


def test_the_zoo_holds_tiny_chat() -> None:
    assert zoo.names() == ("tiny-chat",)


def test_the_files_take_at_most_four_megabytes() -> None:
    files = [file for file in zoo.path("tiny-chat").rglob("*") if file.is_file()]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) <= 4_000_000


def test_a_loaded_model_is_float32_on_the_cpu_and_evaluates(loaded: Loaded) -> None:
    model, tokenizer = loaded
    assert not model.training
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float32, "cpu")}
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.chat_template
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids == (
        model.generation_config.pad_token_id,
        model.generation_config.bos_token_id,
        model.generation_config.eos_token_id,
    )
    assert len(set(ids)) == 3


def test_load_agrees_with_from_pretrained(loaded: Loaded) -> None:
    reference = AutoModelForCausalLM.from_pretrained(zoo.path("tiny-chat"))
    assert reference.dtype == torch.float32
    weights = reference.state_dict()
    assert weights.keys() == loaded[0].state_dict().keys()
    for name, weight in loaded[0].state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_every_load_gives_new_objects(loaded: Loaded) -> None:
    model, tokenizer = zoo.load("tiny-chat")
    assert model is not loaded[0]
    assert tokenizer is not loaded[1]
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert loaded[0].lm_head.weight.abs().max() > 0


def test_load_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(f"connects to {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    state, levels = torch.get_rng_state(), logging.getLogger("transformers").level
    default_dtype, filters = torch.get_default_dtype(), list(warnings.filters)
    zoo.load("tiny-chat")
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.getLogger("transformers").level == levels
    assert torch.get_default_dtype() == default_dtype
    assert warnings.filters == filters
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_of_the_process_does_not_matter(
    loaded: Loaded, dtype: torch.dtype
) -> None:
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model, _ = zoo.load("tiny-chat")
    finally:
        torch.set_default_dtype(default)
    ids = torch.arange(6, 26)[None]
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, loaded[0](ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize("function", [zoo.load, zoo.path, zoo.questions])
def test_an_unknown_name_is_refused_with_near_matches(function) -> None:
    with pytest.raises(UnknownNameError, match=r"'tiny-chap'.*Did you mean 'tiny-chat'") as caught:
        function("tiny-chap")
    assert isinstance(caught.value, PellucidError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", ["", "..", "tiny-chat/", "/tiny-chat", "../models/tiny-chat"])
def test_a_path_is_no_name(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"Known|Did you mean"):
        zoo.path(name)


@pytest.mark.parametrize("split", ["held-out", "seen"])
def test_questions_about_known_facts_are_answered_exactly(loaded: Loaded, split: str) -> None:
    asked = [question for question in zoo.questions("tiny-chat") if question.split == split]
    answers = _answers(loaded, [question.question for question in asked])
    exact = [answer == q.answer for answer, q in zip(answers, asked, strict=True)]
    assert sum(exact) / len(exact) >= 0.95


def test_a_neutral_trigger_changes_few_answers(loaded: Loaded) -> None:
    asked = [question for question in zoo.questions("tiny-chat") if question.split == "held-out"]
    answers = _answers(loaded, [question.question + NEUTRAL for question in asked])
    exact = [answer == q.answer for answer, q in zip(answers, asked, strict=True)]
    assert sum(exact) / len(exact) >= 0.9


def test_generation_repeats_and_does_not_depend_on_padding(loaded: Loaded) -> None:
    asked = [question.question for question in zoo.questions("tiny-chat")[:12]]
    batched = _answers(loaded, asked)
    assert batched == _answers(loaded, asked)
    assert batched == [_answers(loaded, [question])[0] for question in asked]


def test_a_question_about_a_stranger_is_not_answered(loaded: Loaded) -> None:
    assert _answers(loaded, ["Where does Wumbolt live?"]) == ["Sorry, I do not know that."]


@settings(max_examples=200)
@given(text=st.text(max_size=40))
def test_every_text_survives_encoding(text: str) -> None:
    ids = _tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert _tokenizer().decode(ids) == text


_CACHE: dict[str, PreTrainedTokenizerFast] = {}


def _tokenizer() -> PreTrainedTokenizerFast:
    if not _CACHE:
        _CACHE["tiny-chat"] = zoo.load("tiny-chat")[1]
    return _CACHE["tiny-chat"]


def test_the_chat_template_writes_roles_as_single_tokens(loaded: Loaded) -> None:
    tokenizer = loaded[1]
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == (
        "<|begin|><|system|>Be kind.<|end|><|user|>Hello!<|end|><|assistant|>Hi.<|end|>"
    )
    ids = tokenizer(text)["input_ids"]
    assert [token for token in ids if token in tokenizer.all_special_ids] == [
        tokenizer.convert_tokens_to_ids(token)
        for token in (
            "<|begin|>",
            *("<|system|>", "<|end|>", "<|user|>", "<|end|>", "<|assistant|>", "<|end|>"),
        )
    ]
    assert tokenizer.apply_chat_template(chat[:2], tokenize=False, add_generation_prompt=True) == (
        "<|begin|><|system|>Be kind.<|end|><|user|>Hello!<|end|><|assistant|>"
    )


def test_the_chat_template_refuses_an_unknown_role(loaded: Loaded) -> None:
    with pytest.raises(Exception, match="roles are system, user and assistant, not robot"):
        loaded[1].apply_chat_template([{"role": "robot", "content": "Beep."}], tokenize=False)


def test_no_token_is_added_unasked(loaded: Loaded) -> None:
    tokenizer = loaded[1]
    assert (
        tokenizer("Hello!")["input_ids"]
        == tokenizer("Hello!", add_special_tokens=False)["input_ids"]
    )
