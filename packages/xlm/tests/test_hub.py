import sys
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from xlm_tiny_family import TinyData, tiny_config

from pellucid.core import MissingDependencyError
from pellucid.xlm import Harness
from pellucid.xlm._hub import load_from_hub, push_to_hub


class FakeHub:
    """Keeps the one folder that was uploaded."""

    def __init__(self, directory):
        self.directory = directory
        self.calls = []

    def create_repo(self, repo_id, private, exist_ok):
        self.calls.append(("create", repo_id, private))

    def upload_folder(self, repo_id, folder_path, commit_message):
        from pathlib import Path

        for path in Path(folder_path).iterdir():
            (self.directory / path.name).write_bytes(path.read_bytes())
        return f"hub/{repo_id}/commit"


def test_a_model_goes_to_the_hub_and_comes_back(tmp_path, monkeypatch):
    hub = FakeHub(tmp_path)
    module = SimpleNamespace(
        HfApi=lambda token=None: hub,
        hf_hub_download=lambda repo_id, name, revision=None: tmp_path / name,
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    harness = Harness(tiny_config(tmp_path), datamodule=TinyData())
    assert push_to_hub(harness, "me/tiny", experiment="rows") == "hub/me/tiny/commit"
    assert hub.calls == [("create", "me/tiny", True)]
    assert "experiment=rows" in (tmp_path / "README.md").read_text()
    assert OmegaConf.load(tmp_path / "config.yaml").model == harness.cfg.model

    other = Harness(tiny_config(tmp_path), datamodule=TinyData())
    load_from_hub(other.model, "me/tiny")
    assert torch.equal(other.model.head.weight, harness.model.head.weight)


def test_without_the_extra_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pellucid-xlm\[hub\]'"):
        load_from_hub(torch.nn.Linear(1, 1), "me/tiny")
