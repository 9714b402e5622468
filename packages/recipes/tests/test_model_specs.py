import re

import pytest

from pellucid.core import ArgumentError, MissingDependencyError, UnknownNameError
from pellucid.hf import EncoderHFModel, LMHFModel
from pellucid.recipes import ModelKind, _model_specs, load_model, load_tokenizer
from pellucid.testing import TinyLM


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """Directory of a tiny random Llama, as save_pretrained writes it."""
    from pellucid.testing import tiny_llama, tiny_tokenizer

    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_llama(seed=1).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def saved_encoder(tmp_path_factory):
    """Directory of a tiny random BERT."""
    from pellucid.testing import tiny_bert, tiny_wordpiece_tokenizer

    path = tmp_path_factory.mktemp("models") / "tiny-bert"
    tiny_bert(seed=1).save_pretrained(path)
    tiny_wordpiece_tokenizer().save_pretrained(path)
    return path


def test_a_directory_is_a_model(saved_model):
    model = load_model(str(saved_model))
    assert isinstance(model, LMHFModel)
    assert len(model(["hello"], max_new_tokens=2)) == 1


def test_the_zoo_is_at_hand():
    model = load_model("zoo:tiny-chat")
    assert model(["What colour is Mira's bicycle?"]) == ["Mira's bicycle is yellow."]


def test_a_directory_with_a_colon_in_its_name_is_a_directory(saved_model, tmp_path, monkeypatch):
    (tmp_path / "zoo:mine").symlink_to(saved_model)
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_model("zoo:mine"), LMHFModel)


def test_the_home_directory_is_found(saved_model, monkeypatch):
    monkeypatch.setenv("HOME", str(saved_model.parent))
    assert isinstance(load_model(f"~/{saved_model.name}"), LMHFModel)


def test_a_server_needs_another_package(monkeypatch):
    monkeypatch.setattr(_model_specs, "names", lambda group: ["hf-lm"])
    with pytest.raises(MissingDependencyError, match="pip install pellucid-api"):
        load_model("litellm:openai/gpt", "http://localhost:1")


def test_a_server_is_given_its_name_and_address(monkeypatch):
    asked, remote = [], TinyLM(seed=1)

    def make(name, base_url):
        asked.append((name, base_url))
        return remote

    monkeypatch.setattr(_model_specs, "names", lambda group: ["hf-lm", "litellm"])
    monkeypatch.setattr(_model_specs, "load", lambda group, name: make)
    assert load_model("litellm:openai/gpt", "http://localhost:1") is remote
    assert asked == [("openai/gpt", "http://localhost:1")]
    with pytest.raises(ArgumentError, match="names no model"):
        load_model("litellm:")


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("zoo:lion", UnknownNameError, "unknown zoo model 'lion'"),
        ("lite:x", UnknownNameError, "unknown model prefix 'lite'. Did you mean 'litellm'"),
        ("", ArgumentError, "'' names no model"),
        ("hf-lm:", ArgumentError, "'hf-lm:' names no model"),
        ("../nowhere", ArgumentError, "there is no model at '../nowhere'"),
        ("no/body", ArgumentError, "cannot load the model 'no/body'"),
    ],
)
def test_what_is_no_model_is_named(spec, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        load_model(spec)


def test_a_directory_that_cannot_be_read_is_named(saved_model, monkeypatch):
    monkeypatch.setattr(_model_specs.os, "access", lambda path, mode: False)
    with pytest.raises(ArgumentError, match="cannot be read"):
        load_model(str(saved_model))


def test_loading_leaves_the_progress_bars_of_transformers_as_they_were(saved_model):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    load_model(str(saved_model))
    assert logging.is_progress_bar_enabled() is before


def test_a_backend_may_be_named(saved_encoder):
    encoder = load_model(f"hf-encoder:{saved_encoder}", options={"pooling": "cls"})
    assert isinstance(encoder, EncoderHFModel)
    assert isinstance(load_model(str(saved_encoder), kind=ModelKind.ENCODER), EncoderHFModel)


def test_options_reach_the_backend():
    assert isinstance(load_model("zoo:tiny-chat", options={"use_prefix_cache": False}), LMHFModel)
    with pytest.raises(ArgumentError, match="no_such_option"):
        load_model("zoo:tiny-chat", options={"no_such_option": 1})


def test_an_address_is_for_servers(saved_model):
    with pytest.raises(ArgumentError, match="the base URL 'http://x' has a meaning for models"):
        load_model(str(saved_model), "http://x")


def test_a_backend_of_another_kind_is_given_what_it_takes(monkeypatch):
    asked = []
    monkeypatch.setattr(_model_specs, "names", lambda group: ["voyage"])
    monkeypatch.setattr(
        _model_specs, "load", lambda group, name: lambda *a, **k: asked.append((a, k)) or TinyLM()
    )
    load_model("voyage:small")
    load_model("voyage:small", "http://localhost:1", options={"timeout_s": 1})
    assert asked == [
        (("small",), {}),
        (("small",), {"base_url": "http://localhost:1", "timeout_s": 1}),
    ]


def test_tokenizers_are_loaded_by_the_same_names(saved_model):
    assert len(load_tokenizer("zoo:tiny-chat")) > 1000
    assert len(load_tokenizer(str(saved_model))) > 10
    with pytest.raises(ArgumentError, match=r"no tokenizer can be loaded from '\./nowhere'"):
        load_tokenizer("./nowhere")
