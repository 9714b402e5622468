import sys

import pytest
from core_samples import EchoLM, LengthLoss

from pellucid.core import MissingDependencyError, UnknownNameError, load, names
from pellucid.core._registry import GROUPS


def test_names_are_sorted_and_load_what_they_stand_for(register):
    register("pellucid.losses", length="core_samples:LengthLoss", a_first="core_samples:EchoLM")
    register("pellucid.models", echo="core_samples:EchoLM")
    assert names("pellucid.losses") == ["a-first", "length"]
    assert load("pellucid.losses", "length") is LengthLoss
    assert load("pellucid.models", "echo") is EchoLM


def test_nothing_is_imported_before_it_is_asked_for(register, tmp_path, monkeypatch):
    (tmp_path / "lazy_plugin.py").write_text("THING = 7\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    register("pellucid.trackers", lazy="lazy_plugin:THING")
    assert names("pellucid.trackers") == ["lazy"]
    assert "lazy_plugin" not in sys.modules
    assert load("pellucid.trackers", "lazy") == 7
    del sys.modules["lazy_plugin"]


def test_a_misspelt_name_is_answered_with_near_ones(register):
    register("pellucid.optimizers", gcg="x:y", gcg_plus="x:y", random_search="x:y")
    with pytest.raises(
        UnknownNameError, match=r"unknown optimizer 'gcgplus'. Did you mean 'gcg-plus'"
    ):
        load("pellucid.optimizers", "gcgplus")
    with pytest.raises(UnknownNameError, match=r"Known: gcg, gcg-plus, random-search"):
        load("pellucid.optimizers", "zzzzzz")


@pytest.mark.parametrize("call", [names, lambda group: load(group, "x")])
def test_an_unknown_group_is_refused(call, register):
    with pytest.raises(UnknownNameError, match=r"unknown entry-point group 'pellucid.loss'. Did"):
        call("pellucid.loss")


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_every_group_may_be_empty(group, register):
    assert names(group) == []


@pytest.mark.parametrize(
    ("group", "home"),
    [
        ("pellucid.losses", "pellucid-losses"),
        ("pellucid.model_sources", "pellucid-zoo"),
        ("pellucid.models", "pellucid-hf"),
        ("pellucid.optimizers", "pellucid-optimizers"),
        ("pellucid.recipes", "pellucid-recipes"),
        ("pellucid.trackers", "pellucid-optimizers"),
    ],
)
def test_a_package_that_is_not_installed_is_named(group, home, register):
    with pytest.raises(MissingDependencyError, match=f"'x' is not known. pip install {home}"):
        load(group, "x")


def test_a_module_that_a_plugin_needs_is_named(register, tmp_path, monkeypatch):
    (tmp_path / "needy_plugin.py").write_text("import no_such_module_xyz\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    register("pellucid.models", needy="needy_plugin:Model")
    with pytest.raises(
        MissingDependencyError, match=r"'needy' \(needy_plugin:Model\) needs the module 'no_such"
    ) as caught:
        load("pellucid.models", "needy")
    assert isinstance(caught.value, ImportError)


def test_an_installed_plugin_names_its_distribution(register, monkeypatch):
    from importlib.metadata import EntryPoint

    from pellucid.core import _registry

    class Distribution:
        name = "pellucid-example"

    entry = EntryPoint("x", "no_such_module_xyz:X", "pellucid.models")._for(Distribution())
    monkeypatch.setattr(_registry, "_entries", lambda group: {"x": entry})
    with pytest.raises(MissingDependencyError, match="Install pellucid-example with the extra"):
        load("pellucid.models", "x")


def test_what_is_installed_here_is_found_without_registering():
    for group in GROUPS:
        assert isinstance(names(group), list)
