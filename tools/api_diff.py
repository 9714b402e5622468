"""Compare the public API with the last release's: `uv run python tools/api_diff.py [NAME...]`.

Prints a line for each public name that is new (+), that behaves otherwise by default (~), and for
each change that breaks a caller (!). The exit status is 1 if a change breaks although the version
promises that none does, or if the changelog says nothing of what changed. `--against REF` compares
with any commit; without it, with the latest tag `pellucid-NAME-v*` of another version.
"""

import argparse
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import griffe

from workspace.declarations import bounds_on
from workspace.model import Package, Workspace, WorkspaceError

_MILD = {
    griffe.BreakageKind.ATTRIBUTE_CHANGED_VALUE,
    griffe.BreakageKind.PARAMETER_CHANGED_DEFAULT,
}
"""What changes how something behaves, and breaks no call."""


@dataclass(frozen=True)
class Diff:
    """How the public API of a package differs from that of a commit.

    Attributes:
        added: New public names.
        changed: What behaves otherwise.
        broken: What breaks a caller.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    broken: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield a line for each difference."""
        yield from (f"! {line}" for line in self.broken)
        yield from (f"~ {line}" for line in self.changed)
        yield from (f"+ {line}" for line in self.added)


def compare(package: Package, root: Path, ref: str) -> Diff:
    """Return what has changed since a commit.

    Raises:
        WorkspaceError: If git does not know the commit, or it does not hold the package.
    """
    with tempfile.TemporaryDirectory() as held:
        old = _load(package, _extract(package, root, ref, Path(held)))
    new = _load(package, package.source.parent.parent)
    found = sorted(griffe.find_breaking_changes(old, new), key=lambda one: one.obj.path)
    return Diff(
        added=tuple(sorted(public_names(new) - public_names(old))),
        changed=tuple(_describe(one) for one in found if one.kind in _MILD),
        broken=tuple(_describe(one) for one in found if one.kind not in _MILD),
    )


def _load(package: Package, source: Path) -> griffe.Object | griffe.Alias:
    return griffe.load(package.import_name, search_paths=[source], allow_inspection=False)


def _extract(package: Package, root: Path, ref: str, folder: Path) -> Path:
    """Write a package's sources as a commit has them, and return where they are."""
    source = package.source.parent.parent.relative_to(root).as_posix()
    command = ["git", "archive", "--format=tar", ref, source]
    done = subprocess.run(command, cwd=root, capture_output=True, check=False)
    if done.returncode != 0:
        why = done.stderr.decode().strip()
        message = f"{ref!r} holds no {package.distribution} to compare with ({why}); fetch it"
        raise WorkspaceError(message)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / source


def public_names(module: griffe.Object | griffe.Alias) -> set[str]:
    """Return every name that a package and its public modules export."""
    found = {f"{module.path}.{name}" for name in module.exports or () if isinstance(name, str)}
    for name, inner in module.modules.items():
        if not name.startswith("_") and not inner.is_alias:
            found |= public_names(inner)
    return found


def _describe(breakage: griffe.Breakage) -> str:
    text = breakage.explain(griffe.ExplanationStyle.ONE_LINE)
    plain = re.sub(r"\x1b\[\d+m", "", text)
    return plain.partition(": ")[2]


def last_release(package: Package, root: Path) -> str | None:
    """Return the latest tag of the package whose version is not the present one."""
    pattern = f"{package.distribution}-v*"
    command = ["git", "tag", "--list", pattern, "--sort=-version:refname"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    present = f"{package.distribution}-v{package.version}"
    return next((tag for tag in done.stdout.split() if tag != present), None)


def problems(package: Package, root: Path, ref: str, diff: Diff) -> Iterator[str]:
    """Yield what the version or the changelog does not say of the differences."""
    before = _version_at(package, root, ref)
    if diff.broken and bounds_on(before) == bounds_on(package.version):
        yield (
            f"{package.distribution} {package.version} breaks what {before} promised; "
            f"uv version --package {package.distribution} --bump minor"
        )
    if any(diff.lines()) and not _has_news(package):
        yield f"packages/{package.name}/CHANGELOG.md says nothing of it; write it there"


def _version_at(package: Package, root: Path, ref: str) -> str:
    path = (package.root / "pyproject.toml").relative_to(root).as_posix()
    command = ["git", "show", f"{ref}:{path}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return tomllib.loads(done.stdout)["project"]["version"]


def _has_news(package: Package) -> bool:
    text = (package.root / "CHANGELOG.md").read_text(encoding="utf-8")
    names = rf"Unreleased|{re.escape(package.version)}"
    sections = re.findall(rf"^## \[?(?:{names})\b.*?\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return any(re.search(r"^\s*[-*] ", section, re.MULTILINE) for section in sections)


def report(package: Package, root: Path, against: str | None) -> int:
    """Print the differences of one package and return the exit status."""
    ref = against or last_release(package, root)
    if ref is None:
        print(f"{package.distribution} {package.version}: no release before it to compare with")
        return 0
    diff = compare(package, root, ref)
    lines = list(diff.lines())
    print(f"{package.distribution} {package.version} since {ref}: {len(lines)} differences")
    for line in lines:
        print(f"  {line}")
    found = list(problems(package, root, ref, diff))
    for problem in found:
        print(f"api_diff.py: {problem}", file=sys.stderr)
    return 1 if found else 0


def main(argv: list[str] | None = None) -> int:
    """Compare the named packages, or all; 1 if one breaks a promise, 2 if one cannot be read."""
    parser = argparse.ArgumentParser(prog="api_diff.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", nargs="*", help="directories under packages/; all when omitted")
    parser.add_argument("--against", metavar="REF", help="a commit; the last release when omitted")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    options = parser.parse_args(argv)
    root: Path = options.root.resolve()
    try:
        workspace = Workspace.load(root)
        unknown = sorted(set(options.name) - set(workspace.by_name))
        if unknown:
            raise WorkspaceError(
                f"{unknown[0]!r} is no package; {', '.join(workspace.by_name)} are"
            )
        chosen = options.name or list(workspace.by_name)
        statuses = [report(workspace.by_name[name], root, options.against) for name in chosen]
    except WorkspaceError as error:
        print(f"api_diff.py: {error}", file=sys.stderr)
        return 2
    return max(statuses, default=0)


if __name__ == "__main__":
    sys.exit(main())
