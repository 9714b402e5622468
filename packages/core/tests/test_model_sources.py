import sys
import types

import pytest

from pellucid.core import ModelSource, find_model_source


@pytest.fixture
def shelf(register, monkeypatch):
    module = types.ModuleType("shelf_source")
    module.names = lambda: ["tiny"]
    module.load = lambda name: (name, "its tokenizer")
    monkeypatch.setitem(sys.modules, "shelf_source", module)
    register("pellucid.model_sources", shelf="shelf_source")
    return module


def test_a_source_is_found_by_its_prefix_and_the_rest_is_the_name(shelf):
    source, name = find_model_source("shelf:tiny")
    assert source is shelf
    assert isinstance(source, ModelSource)
    assert source.load(name) == ("tiny", "its tokenizer")
    assert find_model_source("shelf:with:colons") == (shelf, "with:colons")


@pytest.mark.parametrize("spec", ["", "organisation/model", "./folder", "C:/folder"])
def test_other_names_of_models_have_no_source(shelf, spec):
    assert find_model_source(spec) is None


def test_a_file_of_that_name_goes_first(shelf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shelf:tiny").mkdir()
    assert find_model_source("shelf:tiny") is None


def test_a_misspelt_source_is_answered_with_near_ones(shelf):
    with pytest.raises(ValueError, match=r"'shelv'.*shelf"):
        find_model_source("shelv:tiny")


def test_what_is_no_source_is_refused(register):
    register("pellucid.model_sources", odd="json")
    with pytest.raises(TypeError, match=r"'odd' is registered .* lacks names\(\) or load\(name\)"):
        find_model_source("odd:tiny")
