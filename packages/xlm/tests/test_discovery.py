import importlib
import json
import pickle
import sys
from importlib.metadata import EntryPoint

import pytest

from pellucid.core import ArgumentError
from pellucid.xlm import _discovery
from pellucid.xlm._discovery import (
    ExternalModelConflictError,
    broken_families,
    discover_families,
)


@pytest.fixture(autouse=True)
def workplace(monkeypatch, tmp_path):
    for name in ("XLM_MODELS_PATH", "XLM_MODELS_PACKAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_discovery, "entry_points", lambda group: [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    importlib.invalidate_caches()
    return tmp_path


def make(directory, name, *, has_configs=True):
    (directory / name / ("configs" if has_configs else "other")).mkdir(parents=True)
    (directory / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
    importlib.invalidate_caches()


def names():
    return [family.name for family in discover_families()]


def test_nothing_is_found_where_nothing_is():
    assert names() == []


def test_a_list_in_the_current_directory_counts(workplace):
    make(workplace / "here", "fam_listed")
    (workplace / "here" / "xlm_models.json").write_text('{"fam_listed": "fam_listed"}')
    (family,) = discover_families()
    assert family.module == "fam_listed"
    assert family.config_dir == workplace / "here" / "fam_listed" / "configs"
    assert str(workplace / "here") in sys.path


def test_directories_of_the_path_are_looked_at(workplace, monkeypatch):
    for place in ("a", "b"):
        make(workplace / place, f"fam_{place}")
        entries = {f"fam_{place}": f"fam_{place}"}
        (workplace / place / "xlm_models.json").write_text(json.dumps(entries))
    monkeypatch.setenv("XLM_MODELS_PATH", f"{workplace / 'a'}:{workplace / 'b'}")
    assert names() == ["fam_a", "fam_b"]


@pytest.mark.parametrize("separator", [":", ","])
def test_packages_are_found_without_being_imported(workplace, monkeypatch, separator):
    for name in ("fam_one", "fam_two"):
        make(workplace / "lib", name)
    monkeypatch.syspath_prepend(workplace / "lib")
    monkeypatch.setenv("XLM_MODELS_PACKAGES", separator.join(["fam_one", "fam_two"]))
    assert names() == ["fam_one", "fam_two"]
    assert "fam_one" not in sys.modules


def test_entry_points_are_found_and_a_broken_one_holds_nobody_up(workplace, monkeypatch):
    make(workplace / "lib", "fam_point")
    monkeypatch.syspath_prepend(workplace / "lib")
    points = [
        EntryPoint("fam_point", "fam_point", _discovery.GROUP),
        EntryPoint("gone", "no_such_package_at_all", _discovery.GROUP),
    ]
    monkeypatch.setattr(_discovery, "entry_points", lambda group: points)
    assert names() == ["fam_point"]
    (fault,) = broken_families()
    assert "'no_such_package_at_all', which cannot be imported" in fault


def test_one_family_found_twice_in_one_place_is_one(workplace, monkeypatch):
    make(workplace / "here", "fam_same")
    (workplace / "here" / "xlm_models.json").write_text('{"fam_same": "fam_same"}')
    monkeypatch.setenv("XLM_MODELS_PATH", str(workplace / "here"))
    assert names() == ["fam_same"]


def installed_and_listed(workplace, monkeypatch, name):
    """A project in the current directory, and a copy of it that is installed."""
    for place in ("here", "lib"):
        make(workplace / place, name)
        (workplace / place / name / "configs" / "a.yaml").write_text("a: 1\n")
    (workplace / "here" / "xlm_models.json").write_text(json.dumps({name: name}))
    monkeypatch.syspath_prepend(workplace / "lib")
    points = [EntryPoint(name, name, _discovery.GROUP)]
    monkeypatch.setattr(_discovery, "entry_points", lambda group: points)


def test_a_project_and_its_installed_copy_are_one_family(workplace, monkeypatch):
    installed_and_listed(workplace, monkeypatch, "fam_copied")
    (family,) = discover_families()
    assert family.config_dir == workplace / "lib" / "fam_copied" / "configs"
    assert family.copy_found_by == repr(str(workplace / "here" / "xlm_models.json"))


@pytest.mark.parametrize("changed", ["configs/a.yaml", "__init__.py", "more.py"])
def test_a_project_and_a_stale_copy_are_a_conflict(workplace, monkeypatch, changed):
    installed_and_listed(workplace, monkeypatch, "fam_stale")
    (workplace / "here" / "fam_stale" / changed).write_text("b: 2\n")
    with pytest.raises(ExternalModelConflictError) as caught:
        discover_families()
    message = str(caught.value)
    for expected in ("hold different files", "pip install", "entry point 'fam_stale'"):
        assert expected in message
    for place in ("here", "lib"):
        assert str(workplace / place / "fam_stale") in message
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.places) == (message, caught.value.places)


def test_two_families_of_one_name_are_a_conflict(workplace, monkeypatch):
    for place in ("a", "b"):
        make(workplace / place, f"fam_{place}_twice")
        entries = {"fam_twice": f"fam_{place}_twice"}
        (workplace / place / "xlm_models.json").write_text(json.dumps(entries))
    monkeypatch.setenv("XLM_MODELS_PATH", f"{workplace / 'a'}:{workplace / 'b'}")
    with pytest.raises(ExternalModelConflictError, match="'fam_twice' is found twice") as caught:
        discover_families()
    assert caught.value.name == "fam_twice"
    assert len(caught.value.places) == 2
    for place in ("a", "b"):
        assert str(workplace / place / "xlm_models.json") in str(caught.value)
        assert str(workplace / place / f"fam_{place}_twice") in str(caught.value)
    assert "rename or remove one of them" in str(caught.value)


def test_an_entry_point_and_a_list_can_conflict(workplace, monkeypatch):
    make(workplace / "lib", "fam_lib")
    make(workplace / "here", "fam_here")
    monkeypatch.syspath_prepend(workplace / "lib")
    points = [EntryPoint("fam_both", "fam_lib", _discovery.GROUP)]
    monkeypatch.setattr(_discovery, "entry_points", lambda group: points)
    (workplace / "here" / "xlm_models.json").write_text('{"fam_both": "fam_here"}')
    with pytest.raises(ExternalModelConflictError, match="by entry point 'fam_both' in "):
        discover_families()


def test_a_list_that_names_a_family_twice_is_a_conflict(workplace):
    (workplace / "here" / "xlm_models.json").write_text('{"fam": "a/fam", "fam": "b/fam"}')
    with pytest.raises(ExternalModelConflictError, match="as 'a/fam' and as 'b/fam', both by "):
        discover_families()


@pytest.mark.parametrize("hidden_by", ["json", "fam_shadow"])
def test_a_package_that_another_module_hides_is_named(workplace, monkeypatch, hidden_by):
    make(workplace / "here", hidden_by)
    if hidden_by != "json":
        make(workplace / "lib", hidden_by, has_configs=False)
        monkeypatch.syspath_prepend(workplace / "lib")
    entries = {"fam_hidden": hidden_by}
    (workplace / "here" / "xlm_models.json").write_text(json.dumps(entries))
    with pytest.raises(ArgumentError, match="rename the family's package") as caught:
        discover_families()
    assert "'fam_hidden'" in str(caught.value)
    assert f"{hidden_by!r} is " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be a JSON object"),
        ("[1]", "must be a JSON object"),
        ('{"fam": "nowhere"}', "family 'fam' at .* has no configs/"),
    ],
)
def test_a_wrong_list_is_named(workplace, content, message):
    (workplace / "here" / "xlm_models.json").write_text(content)
    with pytest.raises(ArgumentError, match=message):
        discover_families()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("XLM_MODELS_PATH", "/nowhere/at/all", "names '/nowhere/at/all', which is no directory"),
        ("XLM_MODELS_PACKAGES", "no_such_package_at_all", "cannot be imported"),
        ("XLM_MODELS_PACKAGES", "fam_bare", "has no directory configs/"),
    ],
)
def test_a_wrong_variable_is_named(workplace, monkeypatch, variable, value, message):
    make(workplace / "lib", "fam_bare", has_configs=False)
    monkeypatch.syspath_prepend(workplace / "lib")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ArgumentError, match=message):
        discover_families()
