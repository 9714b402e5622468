"""Add a package that passes its checks at once: `uv run tools/new.py NAME --description "..."`.

Standard library only. A package that cannot be added leaves nothing behind.
"""

import argparse
import json
import keyword
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import ws
from workspace.declarations import bounds_on
from workspace.model import NAMESPACE, Workspace, WorkspaceError
from workspace.registration import indexed, registered

TEMPLATES = Path(__file__).resolve().parent / "templates" / "package"
SUFFIX = ".in"
"""Ends the name of every template, so that no tool takes one for what it becomes."""

_NAME = re.compile(r"[a-z][a-z0-9]*")
_TAKEN = {"common", "helpers", "misc", "pellucid", "test", "tests", "utils", "workspace"}


def check_name(workspace: Workspace, name: str) -> None:
    """Refuse a name that is no module, says nothing, or is taken.

    Raises:
        WorkspaceError: With the reason, and what would do.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        message = f"{name!r} is no package name; use lower-case letters and digits, a letter first"
        raise WorkspaceError(message)
    if name in _TAKEN:
        message = f"{name!r} says nothing about a package's contents; choose a noun that does"
        raise WorkspaceError(message)
    if (workspace.root / "packages" / name).exists():
        message = f"packages/{name} exists; choose another name"
        raise WorkspaceError(message)


def check_imports(workspace: Workspace, may_import: list[str]) -> None:
    """Refuse directions that lead nowhere.

    Raises:
        WorkspaceError: A package does not exist, or core is missing.
    """
    for name in may_import:
        if name not in workspace.by_name:
            known = ", ".join(workspace.by_name)
            message = f"--may-import {name!r} is no package; there are {known}"
            raise WorkspaceError(message)
    if "core" not in may_import:
        message = "--may-import lacks 'core', on which every package stands; add it"
        raise WorkspaceError(message)


def check_description(description: str) -> None:
    """Refuse a description that is not one sentence on one line.

    Raises:
        WorkspaceError: With what is wrong.
    """
    is_line = description.strip() == description and description.isprintable()
    if not is_line or not description.endswith(".") or '"' in description or "\\" in description:
        message = (
            f"--description {description!r} is not a sentence on one line; end it with a period "
            "and write it without double quotes and backslashes"
        )
        raise WorkspaceError(message)


def placeholders(
    workspace: Workspace, name: str, *, description: str, may_import: list[str]
) -> Mapping[str, str]:
    """Return what the templates leave open; floors and Pythons are those of core."""
    core = workspace.by_name["core"]
    required: list[str] = core.project["dependencies"]
    floors = [line for line in required if line.startswith(("jaxtyping", "torch"))]
    siblings = [
        f"{NAMESPACE}-{other}{bounds_on(workspace.by_name[other].version)}"
        for other in sorted(may_import)
    ]
    classifiers = "\n".join(f'  "{line}",' for line in core.project["classifiers"])
    return {
        "name": name,
        "description": description,
        "description_literal": json.dumps(description, ensure_ascii=False),
        "python_floor": json.dumps(workspace.pyproject["project"]["requires-python"]),
        "dependencies": json.dumps([*siblings, *floors]),
        "classifiers": f"[\n{classifiers}\n]",
    }


def render(name: str, values: Mapping[str, str]) -> dict[str, str]:
    """Return the text of every file of the package by its path inside the package."""
    files: dict[str, str] = {}
    for template in sorted(TEMPLATES.rglob(f"*{SUFFIX}")):
        path = template.relative_to(TEMPLATES).as_posix().removesuffix(SUFFIX)
        text = template.read_text(encoding="utf-8")
        for key, value in values.items():
            text = text.replace("{{" + key + "}}", value)
        files[path.replace("NAME", name)] = text
    return files


def write_package(workspace: Workspace, name: str, files: Mapping[str, str]) -> None:
    """Write the files of the package and its licence, which is that of the root."""
    directory = workspace.root / "packages" / name
    for path, text in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    shutil.copyfile(workspace.root / "LICENSE", directory / "LICENSE")


def lock(root: Path) -> None:
    """Bring uv.lock up to date.

    Raises:
        WorkspaceError: uv is missing, or cannot resolve the workspace.
    """
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        message = "uv is missing; install it with 'pip install uv'"
        raise WorkspaceError(message)
    done = subprocess.run([uv, "lock", "--project", str(root)], cwd=root, check=False)
    if done.returncode != 0:
        message = "'uv lock' failed, as it says above; the workspace is as it was"
        raise WorkspaceError(message)


def add(workspace: Workspace, name: str, *, description: str, may_import: list[str]) -> None:
    """Add the package to the workspace, or leave the workspace as it is.

    Raises:
        WorkspaceError: The package would break a rule, or cannot be resolved.
    """
    root = workspace.root
    edited = {path: path.read_bytes() for path in (root / "pyproject.toml", root / "CHANGELOG.md")}
    values = placeholders(workspace, name, description=description, may_import=may_import)
    broken_before = {str(violation) for _, violation in ws.violations(workspace)}
    try:
        pyproject = registered(workspace, name, may_import)
        (root / "pyproject.toml").write_text(pyproject, encoding="utf-8")
        changelogs = (root / "CHANGELOG.md").read_text(encoding="utf-8")
        (root / "CHANGELOG.md").write_text(indexed(changelogs, name), encoding="utf-8")
        write_package(workspace, name, render(name, values))
        for rule, violation in ws.violations(Workspace.load(root)):
            if str(violation) not in broken_before:
                message = f"the new package would break {rule}: {violation}"
                raise WorkspaceError(message)
        lock(root)
    except BaseException:
        for path, content in edited.items():
            path.write_bytes(content)
        shutil.rmtree(root / "packages" / name, ignore_errors=True)
        raise


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="new.py", description="Add a package to the workspace.")
    parser.add_argument("name", help="directory and import name, such as 'bridge'")
    parser.add_argument("--description", required=True, help="one sentence, for README and index")
    parser.add_argument(
        "--may-import", default="core", help="comma-separated packages below it (default: core)"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parent.parent,
        help="directory of the workspace",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Add the package and say what comes next; status 2 for a request that is refused."""
    options = arguments().parse_args(argv)
    name: str = options.name
    may_import = [part.strip() for part in options.may_import.split(",") if part.strip()]
    try:
        workspace = Workspace.load(options.root.resolve())
        check_name(workspace, name)
        check_imports(workspace, may_import)
        check_description(options.description)
        add(workspace, name, description=options.description, may_import=may_import)
    except WorkspaceError as error:
        print(f"new.py: {error}", file=sys.stderr)
        return 2
    print(f"packages/{name} is there. Its tests, as its users get it: .ci/package {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
