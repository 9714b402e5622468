import re

import pytest

from pellucid.cli import _models
from pellucid.cli._models import load_model
from pellucid.core import ArgumentError, MissingDependencyError, UnknownNameError
from pellucid.hf import LMHFModel
from pellucid.testing import TinyLM


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
    monkeypatch.setattr(_models, "names", lambda group: ["hf-lm"])
    with pytest.raises(MissingDependencyError, match="pip install pellucid-api"):
        load_model("litellm:openai/gpt", "http://localhost:1")


def test_a_server_is_given_its_name_and_address(monkeypatch):
    asked, remote = [], TinyLM(seed=1)

    def make(name, base_url):
        asked.append((name, base_url))
        return remote

    monkeypatch.setattr(_models, "names", lambda group: ["hf-lm", "litellm"])
    monkeypatch.setattr(_models, "load", lambda group, name: make)
    assert load_model("litellm:openai/gpt", "http://localhost:1") is remote
    assert asked == [("openai/gpt", "http://localhost:1")]
    with pytest.raises(ArgumentError, match="names no model"):
        load_model("litellm:")


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("zoo:lion", UnknownNameError, "unknown zoo model 'lion'"),
        ("lite:x", UnknownNameError, "unknown model prefix 'lite'. Did you mean 'litellm'"),
        ("", ArgumentError, "--model '' names no model"),
        ("../nowhere", ArgumentError, "there is no model at '../nowhere'"),
        ("no/body", ArgumentError, "cannot load the model 'no/body'"),
    ],
)
def test_what_is_no_model_is_named(spec, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        load_model(spec)


def test_a_directory_that_cannot_be_read_is_named(saved_model, monkeypatch):
    monkeypatch.setattr(_models.os, "access", lambda path, mode: False)
    with pytest.raises(ArgumentError, match="cannot be read"):
        load_model(str(saved_model))


def test_loading_leaves_the_progress_bars_of_transformers_as_they_were(saved_model):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    load_model(str(saved_model))
    assert logging.is_progress_bar_enabled() is before
