"""The family that `xlm-scaffold` copies, against the very tests that it writes."""

import pytest

from pellucid.xlm.scaffold._copying import find_source
from pellucid.xlm.scaffold._project import render, templates_of_tests, values_of

_SOURCE = find_source("starter")
for _path in templates_of_tests(_SOURCE):
    exec(render(_path, values_of(_SOURCE.names, _SOURCE, {})))


@pytest.fixture(autouse=True)
def discovered(monkeypatch, tmp_path):
    monkeypatch.setenv("XLM_MODELS_PACKAGES", "pellucid.xlm.starter")
    monkeypatch.chdir(tmp_path)
