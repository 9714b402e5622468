import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import ws
from workspace import axes, graph, matrix, release
from workspace.model import Requirement, Workspace, WorkspaceError

CORE = "packages/core/pyproject.toml"
LOSSES = "packages/losses/pyproject.toml"
CORE_INIT = "packages/core/src/pellucid/core/__init__.py"
SQUARE = "packages/losses/src/pellucid/losses/_square.py"
SQUARE_TEST = "packages/losses/tests/test_square.py"


@dataclass(frozen=True)
class Plant:
    """One edit of the clean workspace, and the one violation that must come of it.

    With `old`, it is replaced by `new`; without, `new` is appended. `new=None` deletes the file.
    """

    rule: str
    path: str
    new: str | None
    message: str
    old: str = ""

    def apply(self, root: Path) -> None:
        path = root / self.path
        if self.new is None:
            path.unlink()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        assert self.old in text
        text = text.replace(self.old, self.new) if self.old else text + self.new
        path.write_text(text, encoding="utf-8")


def layout_plants() -> Iterator[Plant]:
    yield Plant("no_namespace_init", "packages/core/src/pellucid/__init__.py", "", "own the name")
    yield Plant("required_files", "packages/core/README.md", None, "README.md is missing")
    yield Plant("required_files", "packages/core/LICENSE", None, "LICENSE is missing")
    yield Plant(
        "required_files", "packages/core/src/pellucid/core/py.typed", None, "py.typed is missing"
    )
    yield Plant("required_files", "packages/core/tests/test_core.py", None, "no tests/test_")
    yield Plant("names_agree", CORE, '"pellucid-kore"', "'pellucid-core'", '"pellucid-core"')
    yield Plant("names_agree", CORE, '"pellucid.kore"', "'pellucid.core'", '"pellucid.core"')
    yield Plant("names_agree", "packages/core/src/pellucid/extra/x.py", "", "a package of its own")
    yield Plant("versions_are_plain", CORE, '"0.1"', "write X.Y.Z", '"0.1.0"')
    yield Plant(
        "versions_are_plain", "packages/core/CHANGELOG.md", "## 0.0.1", "0.1.0", "## Unreleased"
    )
    yield Plant("one_python_floor", CORE, '">=3.12"', "write '>=3.11'", '">=3.11"')
    yield Plant("one_python_floor", CORE, "Python :: 3.12", "classifier", "Python :: 3.11")
    yield Plant("cache_keys_cover_sources", CORE, "src/*.py", "lacks src", "src/**/*")
    yield Plant("one_tool_configuration", CORE, "[tool.ruff]\nline-length = 80\n", "tool.ruff")
    yield Plant("one_tool_configuration", "packages/core/pytest.ini", "", "configures a tool")
    yield Plant(
        "modules_say_what_they_hold",
        "packages/core/src/pellucid/core/_utils.py",
        "",
        "name the idea",
    )
    yield Plant("changelog_index_is_complete", "CHANGELOG.md", "", "packages/core", "- [core]")


def declaration_plants() -> Iterator[Plant]:
    bounds = "pellucid-core>=0.1,<0.2"
    for wrong in ("", ">=0.1", ">=0.2,<0.3", ">=0.1,<0.3", ">=0.1.1,<0.2", "==0.1.0"):
        yield Plant(
            "sibling_bounds_are_true", LOSSES, f"pellucid-core{wrong}", f"write {bounds}", bounds
        )
    yield Plant(
        "sibling_bounds_are_true", CORE, '"1.4.0"', "write pellucid-core>=1.4,<2", '"0.1.0"'
    )
    yield Plant("entry_points_exist", LOSSES, "losses:Cube", "names Cube", "losses:Square")
    yield Plant("entry_points_exist", LOSSES, "losses.no:S", "names pellucid.losses.no", "losses:S")
    yield Plant("entry_points_exist", LOSSES, "core:S", "not in this package", "losses:S")
    yield Plant(
        "entry_points_exist", SQUARE, "class Cube(", "names SquareLoss", "class SquareLoss("
    )


def root_plants() -> Iterator[Plant]:
    yield Plant(
        "root_depends_on_every_package",
        "pyproject.toml",
        "",
        "project.dependencies lacks pellucid-losses",
        '"pellucid-losses[fast]", ',
    )
    yield Plant(
        "root_depends_on_every_package",
        "pyproject.toml",
        "",
        "tool.uv.sources lacks pellucid-core",
        "pellucid-core = { workspace = true }",
    )
    yield Plant(
        "root_depends_on_every_package",
        "pyproject.toml",
        '["pellucid.core", "pellucid.losses"]',
        "root_packages lacks pellucid.testing",
        '["pellucid.core", "pellucid.losses", "pellucid.testing"]',
    )
    yield Plant(
        "root_installs_what_tests_need",
        LOSSES,
        'test = ["peft>=0.1", "pellucid-testing"]',
        "its tests need peft",
        'test = ["pellucid-testing"]',
    )
    yield Plant(
        "directions_are_declared",
        "pyproject.toml",
        'layers = ["pellucid.losses", "pellucid.testing", "pellucid.core"]',
        "pellucid.losses | pellucid.testing",
        'layers = ["pellucid.losses | pellucid.testing", "pellucid.core"]',
    )
    yield Plant(
        "directions_are_declared",
        "pyproject.toml",
        'core = ["testing"]\nlosses',
        "a circle of packages: core, losses, testing",
        "core = []\nlosses",
    )
    yield Plant(
        "directions_are_declared",
        "pyproject.toml",
        'losses = ["core", "kore"]',
        "lets losses import the unknown 'kore'",
        'losses = ["core"]',
    )
    yield Plant(
        "directions_are_declared",
        "pyproject.toml",
        "",
        "lacks a row for 'testing'",
        'testing = ["core"]\n',
    )
    yield Plant(
        "declared_siblings_are_allowed",
        LOSSES,
        '"pellucid-testing>=0.1,<0.2", "torch >=2"',
        "losses may not depend on testing",
        '"torch >=2"',
    )


def extra_plants() -> Iterator[Plant]:
    rule, readme = "extras_that_are_named_exist", "packages/core/README.md"
    yield Plant(rule, readme, "pip install 'pellucid-losses[fsat]'", "did you mean 'fast'")
    yield Plant(rule, readme, "pip install pellucid-losses[fast,slow]", "no pellucid-losses[slow]")
    yield Plant(rule, CORE_INIT, '"""See pellucid-kore[x]."""\n', "correct the package")


def import_plants() -> Iterator[Plant]:
    for line in ("import lightning", "from lightning.pytorch import Trainer"):
        yield Plant("imports_are_declared", CORE_INIT, line, "add lightning to")
    yield Plant(
        "imports_are_declared", CORE_INIT, "def f():\n    from PIL import Image\n", "add pillow to"
    )
    yield Plant(
        "imports_are_declared", CORE_INIT, "from google import genai\n", "add google-genai to"
    )
    yield Plant(
        "imports_are_declared",
        CORE_INIT,
        "import importlib\nimportlib.import_module('peft')\n",
        "add peft to",
    )
    yield Plant(
        "imports_are_declared", LOSSES, "", "add pellucid-core", '"pellucid-core>=0.1,<0.2", '
    )
    for line in (
        "from pellucid.testing import checked",
        "from pellucid import testing",
        "import pellucid.testing",
        "from ..testing import checked",
    ):
        yield Plant("imports_point_down", SQUARE, f"\n{line}\n", "losses may not import testing")
    yield Plant(
        "needs_of_tests_are_declared", SQUARE_TEST, "import peft\n", "add peft to the test group"
    )
    yield Plant(
        "axes_are_in_the_glossary", SQUARE, "bach pos+1", "did you mean 'batch'", "batch pos+1"
    )
    yield Plant("axes_are_in_the_glossary", SQUARE, "pos+width", "axis 'width'", "pos+1")


def style_plants() -> Iterator[Plant]:
    yield Plant(
        "no_future_annotations",
        "tools/plan.py",
        "from __future__ import annotations\n",
        "hides types",
    )
    yield Plant("files_are_short", CORE_INIT, "x = 1\n" * 451, "451 lines")
    body = "    x = 1\n" * 71
    yield Plant("functions_are_short", CORE_INIT, f"def long():\n{body}", "long has 71 lines")
    for line in (
        "@pytest.mark.skipif(True)\ndef test_b(): ...\n",
        "@pytest.mark.skipif(True, reason=' ')\ndef test_b(): ...\n",
        "def test_b():\n    pytest.skip()\n",
        "def test_b():\n    pytest.importorskip('triton')\n",
        "from pytest import skip\nskip()\n",
        "import pytest as pt\npt.xfail()\n",
    ):
        yield Plant("skips_give_reasons", SQUARE_TEST, line, "without a reason")
    yield Plant(
        "quarantine_is_listed",
        SQUARE_TEST,
        "@pytest.mark.xfail(reason='flaky')\ndef test_b(): ...\n",
        "test_square.py::test_b: is switched off without a row",
    )
    yield Plant(
        "quarantine_is_listed",
        SQUARE_TEST,
        "pytestmark = [pytest.mark.skip(reason='flaky')]\n",
        "test_square.py::*: is switched off without a row",
    )
    yield Plant(
        "quarantine_is_listed", "CONTRIBUTING.md", "| `tests/test_a.py::test_b` | x |\n", "runs"
    )


PLANTS = [
    *layout_plants(),
    *declaration_plants(),
    *root_plants(),
    *extra_plants(),
    *import_plants(),
    *style_plants(),
]


def test_a_clean_workspace_passes(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ws.main(["--root", str(toy), "check"]) == 0
    assert capsys.readouterr().out == f"3 packages keep all {len(ws.CHECKS)} rules\n"


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant.rule}-{plant.message}")
def test_a_planted_violation_is_found(
    plant: Plant, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant.apply(toy)
    assert ws.main(["--root", str(toy), "check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(plant.message in line and f"[{plant.rule}]" in line for line in lines), lines
    assert all("; " in line for line in lines[:-1]), "every line ends with a remedy"


def test_every_rule_has_a_planted_violation() -> None:
    assert {plant.rule for plant in PLANTS} == {rule.__name__ for rule in ws.CHECKS}


def test_one_violation_is_reported_once(toy: Path) -> None:
    shape = 'Float[Tensor, "width"]'
    with (toy / SQUARE).open("a", encoding="utf-8") as file:
        file.write(f"\n\ndef f(a: {shape}, b: {shape}) -> None: ...\n")
    rules = [rule for rule, _ in ws.violations(Workspace.load(toy))]
    assert rules == ["axes_are_in_the_glossary"]


def test_a_long_signature_is_no_long_function(toy: Path) -> None:
    parameters = "".join(f"    p{n}: int = {n},\n" for n in range(100))
    with (toy / CORE_INIT).open("a", encoding="utf-8") as file:
        file.write(f"def command(\n{parameters}) -> None: ...\n")
    assert ws.violations(Workspace.load(toy)) == []


def test_a_row_in_the_quarantine_lets_a_switched_off_test_pass(toy: Path) -> None:
    (toy / SQUARE_TEST).write_text(
        "import pytest\n\n@pytest.mark.skip(reason='flaky')\nclass TestB: ...\n", encoding="utf-8"
    )
    row = f"| `{SQUARE_TEST}::TestB` | flaky | 2026-01-01 |\n"
    (toy / "CONTRIBUTING.md").write_text(row, encoding="utf-8")
    assert ws.violations(Workspace.load(toy)) == []


def test_a_lazy_export_counts_as_an_entry_point(toy: Path) -> None:
    module = toy / "packages/losses/src/pellucid/losses/__init__.py"
    module.write_text(
        '__all__ = ["SquareLoss"]\n\ndef __getattr__(name: str) -> object: ...\n', encoding="utf-8"
    )
    assert ws.violations(Workspace.load(toy)) == []


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("packages/core/pyproject.toml", None, "pyproject.toml is missing"),
        ("packages/core/pyproject.toml", "[project", "is not TOML"),
        ("packages/core/src/pellucid/core/__init__.py", "def f(:", "__init__.py:1"),
        ("packages/core/src/pellucid/core/axes.py", "", "does not define AXES"),
    ],
)
def test_an_unreadable_workspace_is_one_line_and_status_2(
    path: str, text: str | None, message: str, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / path).unlink() if text is None else (toy / path).write_text(text, encoding="utf-8")
    assert ws.main(["--root", str(toy), "check"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_layers_are_printed_highest_first(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ws.main(["--root", str(toy), "graph"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["1  losses   core", "1  testing  core", "0  core"]


def test_a_name_stands_above_all_that_it_stands_on() -> None:
    edges = {"cli": ["hf", "core"], "hf": ["core"], "core": [], "xlm": ["core", "elsewhere"]}
    found = graph.layers(edges)
    rank = {name: index for index, layer in enumerate(found) for name in layer}
    assert found == [["cli"], ["hf", "xlm"], ["core"]]
    assert all(rank[a] < rank[b] for a in edges for b in edges[a] if b in rank)


def test_axis_names_of_a_shape() -> None:
    shape = "batch *#group _ ... 3 _hidden d_model=64 2*pos+k {n} ?x a-"
    names = {"batch", "group", "hidden", "d_model", "pos", "k", "x", "a-"}
    assert set(axes.axis_names(shape)) == names


@pytest.mark.parametrize("text", ["", ">=1", "[extra]"])
def test_a_requirement_needs_a_name(text: str) -> None:
    with pytest.raises(WorkspaceError, match="is not a requirement"):
        Requirement.parse(text)


def test_the_matrix_has_every_python_every_extra_and_the_lowest(toy: Path) -> None:
    found = matrix.rows(Workspace.load(toy), {"losses"})
    assert [(row["package"], row["python"], row["options"]) for row in found] == [
        ("losses", "3.11", ""),
        ("losses", "3.12", ""),
        ("losses", "3.12", "--extra fast"),
        ("losses", "3.11", "--resolution lowest-direct"),
    ]


def test_the_matrix_is_json_for_a_workflow(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ws.main(["--root", str(toy), "matrix", "--lowest"]) == 0
    include = json.loads(capsys.readouterr().out)["include"]
    assert [row["package"] for row in include] == ["core", "losses", "testing"]
    assert {row["options"] for row in include} == {"--resolution lowest-direct"}


def git(root: Path, *words: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(
        ("git", *identity, *words), cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git what changed")
@pytest.mark.parametrize(
    ("path", "packages"),
    [
        ("packages/core/src/pellucid/core/_new.py", {"core", "losses", "testing"}),
        ("packages/testing/README.md", {"core", "losses", "testing"}),
        ("packages/losses/tests/test_new.py", {"losses"}),
        ("pyproject.toml", {"core", "losses", "testing"}),
        ("tools/ws.py", {"core", "losses", "testing"}),
        ("README.md", set[str]()),
        ("tests/test_new.py", set[str]()),
    ],
)
def test_only_what_a_change_may_break_is_planned(path: str, packages: set[str], toy: Path) -> None:
    git(toy, "init", "-q")
    git(toy, "add", ".")
    git(toy, "commit", "-qm", "before")
    base = git(toy, "rev-parse", "HEAD")
    target = toy / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    git(toy, "add", ".")
    git(toy, "commit", "-qm", "after")
    assert matrix.touched(Workspace.load(toy), base) == packages


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git what changed")
def test_an_unknown_base_is_refused(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(toy, "init", "-q")
    assert ws.main(["--root", str(toy), "matrix", "--changed", "no-such"]) == 2
    assert "'no-such'" in capsys.readouterr().err


def test_a_tag_names_the_package_it_releases(toy: Path) -> None:
    (toy / "packages/core/CHANGELOG.md").write_text("## 0.1.0 - 2026-01-01\n", encoding="utf-8")
    assert release.package_of(Workspace.load(toy), "pellucid-core-v0.1.0").name == "core"


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("core-v0.1.0", "is not a release tag"),
        ("pellucid-kore-v0.1.0", "names no package"),
        ("pellucid-core-v0.2.0", "is not the version"),
        ("pellucid-core-v0.1.0", "has no section 0.1.0"),
    ],
)
def test_a_tag_that_the_tree_does_not_bear_out_is_refused(
    tag: str, message: str, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ws.main(["--root", str(toy), "release", tag]) == 2
    assert message in capsys.readouterr().err
