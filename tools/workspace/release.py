"""Whether a tag says what the tree holds."""

import re

from workspace.model import NAMESPACE, Package, Workspace, WorkspaceError

_TAG = re.compile(rf"{NAMESPACE}-(?P<name>[a-z][a-z0-9]*)-v(?P<version>.+)")


def package_of(workspace: Workspace, tag: str) -> Package:
    """Return the package that `pellucid-NAME-vVERSION` releases.

    Raises:
        WorkspaceError: The tag has another form, names an unknown package, or names a version that
            the package's pyproject or changelog does not have.
    """
    match = _TAG.fullmatch(tag)
    if match is None:
        message = f"{tag!r} is not a release tag; write {NAMESPACE}-NAME-vVERSION"
        raise WorkspaceError(message)
    package = workspace.by_name.get(match["name"])
    if package is None:
        message = f"{tag!r} names no package; there are {', '.join(workspace.by_name)}"
        raise WorkspaceError(message)
    if package.version != match["version"]:
        message = f"{tag!r} is not the version in pyproject.toml, {package.version!r}"
        raise WorkspaceError(message)
    changelog = (package.root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[?{re.escape(package.version)}\b", changelog, re.MULTILINE):
        message = f"packages/{package.name}/CHANGELOG.md has no section {package.version}"
        raise WorkspaceError(message)
    return package
