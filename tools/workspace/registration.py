"""Writing a new package into the files of the root, as text, so that comments stay."""

import json
import re
import tomllib
from dataclasses import replace

from workspace.graph import layers
from workspace.model import NAMESPACE, Workspace, WorkspaceError


def registered(workspace: Workspace, name: str, may_import: list[str]) -> str:
    """Return the text of the root pyproject with one more package in all its lists.

    Args:
        workspace: The workspace without the package.
        name: Directory name of the package.
        may_import: The packages that it may import.

    Raises:
        WorkspaceError: A list is not where it is expected, or its name is there twice.
    """
    text = (workspace.root / "pyproject.toml").read_text(encoding="utf-8")
    distribution = f"{NAMESPACE}-{name}"
    text = with_line(text, "dependencies = [", f'  "{distribution}",')
    text = with_line(text, "[tool.uv.sources]", f"{distribution} = {{ workspace = true }}")
    row = f"{name} = {json.dumps(sorted(may_import))}"
    text = with_line(text, f"[tool.{NAMESPACE}.may-import]", row)
    text = with_line(text, "root_packages = [", f'  "{NAMESPACE}.{name}",')
    edited = replace(workspace, pyproject=tomllib.loads(text))
    return with_layers(text, layers(edited.may_import))


def with_line(text: str, opening: str, line: str) -> str:
    """Return `text` with `line` in its sorted place in the block that starts after `opening`.

    A block ends at a closing bracket, at an empty line, or at the end of the text.

    Raises:
        WorkspaceError: `opening` is not a line of its own, exactly once.
    """
    before, block, after = _block(text, opening)
    return "\n".join([*before, *sorted([*block, line]), *after])


def with_layers(text: str, ranks: list[list[str]]) -> str:
    """Return `text` with the import linter's layers replaced, highest first."""
    before, _, after = _block(text, "layers = [")
    lines = ['  "' + " | ".join(f"{NAMESPACE}.{name}" for name in layer) + '",' for layer in ranks]
    return "\n".join([*before, *lines, *after])


def _block(text: str, opening: str) -> tuple[list[str], list[str], list[str]]:
    lines = text.split("\n")
    if lines.count(opening) != 1:
        message = f"{opening!r} is not a line of the root pyproject.toml exactly once"
        raise WorkspaceError(message)
    start = lines.index(opening) + 1
    length = next((i for i, line in enumerate(lines[start:]) if line in {"", "]"}), 0)
    return lines[:start], lines[start : start + length], lines[start + length :]


def indexed(changelogs: str, name: str) -> str:
    """Return the root changelog with a link to the changelog of one more package."""
    line = f"- [{NAMESPACE}-{name}](packages/{name}/CHANGELOG.md)"
    links = re.compile(rf"(^- \[{NAMESPACE}-.*\n)+", re.MULTILINE)
    match = links.search(changelogs)
    if match is None:
        return f"{changelogs.rstrip()}\n\n{line}\n"
    block = "\n".join(sorted([*match[0].splitlines(), line]))
    return f"{changelogs[: match.start()]}{block}\n{changelogs[match.end() :]}"
