"""The rule that advice can be followed: an extra that somebody is told to install exists."""

import re
from collections.abc import Iterator
from difflib import get_close_matches

from workspace.model import NAMESPACE, Package, Violation, Workspace

_MENTION = re.compile(rf"{NAMESPACE}-(?P<package>[a-z][a-z0-9]*)\[(?P<extras>[a-z0-9_, -]+)\]")


def extras_that_are_named_exist(workspace: Workspace) -> Iterator[Violation]:
    """Messages and documents name extras; a misspelt one installs nothing and says nothing."""
    for package in workspace.packages:
        documents = sorted(package.root.glob("*.md"))
        for path in (package.root / "pyproject.toml", *documents, *package.source_files()):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                for match in _MENTION.finditer(line):
                    named = workspace.by_name.get(match["package"])
                    for extra in map(str.strip, match["extras"].split(",")):
                        if named is None or extra not in named.extras:
                            yield Violation(
                                f"{workspace.show(path)}:{number}",
                                f"there is no {NAMESPACE}-{match['package']}[{extra}]",
                                _advise(named, extra),
                            )


def _advise(named: Package | None, extra: str) -> str:
    if named is None:
        return "correct the package"
    near = get_close_matches(extra, named.extras, n=1)
    hint = f"did you mean {near[0]!r}? Otherwise " if near else ""
    return f"{hint}add it to packages/{named.name}/pyproject.toml"
