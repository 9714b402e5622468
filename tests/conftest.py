"""A small workspace on disk that keeps every rule, to plant violations in."""

from pathlib import Path

import pytest

ROOT = """
[project]
name = "pellucid-workspace"
version = "0"
requires-python = ">=3.11"
dependencies = ["pellucid-core", "pellucid-losses[fast]", "pellucid-testing"]

[tool.uv.sources]
pellucid-core = { workspace = true }
pellucid-losses = { workspace = true }
pellucid-testing = { workspace = true }

[tool.pellucid.may-import]
core = []
losses = ["core"]
testing = ["core"]

[tool.importlinter]
root_packages = ["pellucid.core", "pellucid.losses", "pellucid.testing"]

[[tool.importlinter.contracts]]
name = "arrows point down"
type = "layers"
layers = ["pellucid.losses | pellucid.testing", "pellucid.core"]
"""

PACKAGE = """
[project]
name = "pellucid-{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = [{dependencies}]
classifiers = [
  "Programming Language :: Python :: 3",
  "Programming Language :: Python :: 3.11",
  "Programming Language :: Python :: 3.12",
]
{more}
[dependency-groups]
test = ["pellucid-testing"]

[tool.uv]
cache-keys = [{{ file = "pyproject.toml" }}, {{ file = "src/**/*" }}]

[tool.uv.build-backend]
module-name = "pellucid.{name}"
"""

LOSSES = """
[project.optional-dependencies]
fast = ["triton>=3"]

[project.entry-points."pellucid.losses"]
square = "pellucid.losses:SquareLoss"
"""

SQUARE = """
import math
from importlib import import_module

import yaml
from jaxtyping import Float
from pellucid.core import axes
from torch import Tensor, nn


class SquareLoss(nn.Module):
    def forward(
        self, x: Float[Tensor, "*#batch pos+1 _ ... 3"], y: Float[Tensor, " n_layer=2"]
    ) -> Float[Tensor, "min(pos,2)"]:
        import_module("triton")
        from . import _absent
        return (x - y.sum() * math.pi) ** 2


Inline = Float[Tensor, "{self.width} batch"]
"""

TEST = """
import hypothesis
import pytest
from pellucid.core import axes

import local_data


@pytest.mark.skipif(not axes, reason="needs axes")
def test_axes():
    pytest.importorskip("triton", reason="the fast path needs triton")
    if not axes:
        pytest.skip("nothing to test")
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A workspace of three packages, and no violation."""
    write(tmp_path / "pyproject.toml", ROOT)
    write_package(tmp_path, "core", dependencies='"torch>=2"')
    write_package(
        tmp_path,
        "losses",
        dependencies='"pellucid-core>=0.1,<0.2", "torch >=2", "jaxtyping>=0.3", "PyYAML>=6"',
        more=LOSSES,
    )
    write_package(
        tmp_path,
        "testing",
        dependencies='"pellucid-core>=0.1,<0.2", "hypothesis>=6; os_name != \'nt\'", "pytest>=8"',
    )
    module = tmp_path / "packages/losses/src/pellucid/losses"
    write(module / "__init__.py", "from pellucid.losses._square import SquareLoss\n")
    write(module / "_square.py", SQUARE)
    write(
        tmp_path / "packages/core/src/pellucid/core/axes.py",
        'AXES = dict({"batch": "samples", "pos": "tokens", "n_layer": "blocks"})\n',
    )
    write(tmp_path / "packages/losses/tests/test_square.py", TEST)
    write(tmp_path / "packages/losses/tests/local_data.py", "import pytest\n")
    links = "".join(
        f"- [{name}](packages/{name}/CHANGELOG.md)\n" for name in ("core", "losses", "testing")
    )
    write(tmp_path / "CHANGELOG.md", links)
    write(tmp_path / "CONTRIBUTING.md", "| Test | Reason |\n|---|---|\n")
    return tmp_path


def write_package(root: Path, name: str, *, dependencies: str, more: str = "") -> None:
    directory = root / "packages" / name
    text = PACKAGE.format(name=name, dependencies=dependencies, more=more)
    write(directory / "pyproject.toml", text)
    write(directory / "CHANGELOG.md", "# Changelog\n\n## Unreleased\n")
    write(directory / f"src/pellucid/{name}/__init__.py", "")
    write(directory / f"tests/test_{name}.py", "def test_nothing_yet():\n    assert True\n")
    for empty in ("README.md", "LICENSE", f"src/pellucid/{name}/py.typed"):
        write(directory / empty, "")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
