"""Every family of the workspace that trains can be what a new one begins with."""

import os
import subprocess
import sys

import pytest

from pellucid.core import ArgumentError
from pellucid.xlm._discovery import discover_families
from pellucid.xlm._trial import try_experiment
from pellucid.xlm.scaffold import carry_out

# dream decodes what others trained: it has no loss, and so nothing that a new family trains.
WITHOUT_LOSS = {"dream"}
FAMILIES = [family.name for family in discover_families() if family.name not in WITHOUT_LOSS]


@pytest.fixture
def project(monkeypatch, tmp_path, request):
    """A project whose family began as a copy of another."""
    source = request.param
    monkeypatch.setattr(sys, "path", [*sys.path])
    plan = carry_out(f"copied_{source}", source=source, output_dir=tmp_path / "project")
    monkeypatch.chdir(plan.root)
    yield plan
    for module in [name for name in sys.modules if name.startswith(f"copied_{source}")]:
        del sys.modules[module]


@pytest.mark.parametrize("project", FAMILIES, indirect=True)
def test_a_copy_of_a_family_works(project):
    try_experiment(project.experiment)
    # It stands by itself.
    for path, text in project.files.items():
        assert "pellucid.families." not in text, path


@pytest.mark.slow
@pytest.mark.parametrize("project", FAMILIES, indirect=True)
def test_the_tests_of_a_copy_pass(project):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(
        command, cwd=project.root, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("source", sorted(WITHOUT_LOSS))
def test_a_family_without_a_loss_is_refused_by_name(source, tmp_path):
    with pytest.raises(ArgumentError, match=f"'{source}' has no loss_{source}.py"):
        carry_out(f"copied_{source}", source=source, output_dir=tmp_path / "project")
    assert not (tmp_path / "project").exists()
