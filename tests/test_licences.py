"""The list of licences, made of what distributions say."""

import json
from importlib.metadata import PathDistribution

import pytest

import licences

MIT = "Classifier: License :: OSI Approved :: MIT License"


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """Installs a distribution with the metadata that it is given."""

    def install(name, metadata=""):
        folder = tmp_path / "site" / f"{name}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}"
        )
        return PathDistribution(folder)

    monkeypatch.syspath_prepend(tmp_path / "site")
    return install


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: no", "MIT OR Apache-2.0"),
        ("License: Apache 2.0", "Apache-2.0"),
        (f"License: BSD\n{MIT}", "MIT"),
        (f"{MIT}\n{MIT.replace('MIT License', 'Apache Software License')}", "MIT AND Apache-2.0"),
        ("Classifier: License :: OSI Approved\nLicense: A Licence", "A Licence"),
        ("License: UNKNOWN", None),
        (f"License: {'a text, not a name, ' * 9}", None),
        ("", None),
    ],
)
def test_a_licence_is_read_from_wherever_it_is_said(plant, metadata, licence):
    assert licences.licence_of(plant("thing", metadata)) == licence


def write_document(path, *names):
    components = [{"type": "library", "name": name, "version": "1.0"} for name in names]
    held = {"metadata": {"component": {"name": "pellucid-x"}}, "components": components}
    path.write_text(json.dumps(held))
    return path


def test_components_are_given_their_licences(plant, tmp_path, capsys):
    plant("one", "License-Expression: MIT")
    plant("two", "License-Expression: MIT AND ISC")
    plant("three", "License: Our Own Words")
    path = write_document(tmp_path / "x.cdx.json", "one", "two", "three", "far-away")
    assert licences.main([str(path)]) == 0
    found = {c["name"]: c.get("licenses") for c in json.loads(path.read_text())["components"]}
    assert found == {
        "one": [{"license": {"id": "MIT"}}],
        "two": [{"expression": "MIT AND ISC"}],
        "three": [{"license": {"name": "Our Own Words"}}],
        "far-away": None,
    }
    listed = (tmp_path / "x.cdx.md").read_text()
    assert "# Licences of what pellucid-x needs" in listed
    assert "| one 1.0 | MIT |" in listed
    assert f"| far-away 1.0 | {licences.ELSEWHERE} |" in listed
    assert capsys.readouterr().err == ""


def test_a_licence_that_nobody_says_is_a_failure(plant, tmp_path, capsys):
    plant("silent")
    path = write_document(tmp_path / "x.cdx.json", "silent")
    assert licences.main([str(path)]) == 1
    assert "silent 1.0 says no licence; look it up" in capsys.readouterr().err
    assert "| silent 1.0 | says none |" in (tmp_path / "x.cdx.md").read_text()
