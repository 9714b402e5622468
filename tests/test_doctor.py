"""What the doctor knows of the workspace that it is shipped from."""

from pathlib import Path

from pellucid.cli._installation import PACKAGES
from workspace.model import Workspace

ROOT = Path(__file__).resolve().parent.parent


def test_the_doctor_knows_every_package():
    """One that it does not know, it could not tell anybody to install."""
    there = {package.distribution for package in Workspace.load(ROOT).packages}
    assert set(PACKAGES) == there, "list the package in packages/cli, _installation.py"
