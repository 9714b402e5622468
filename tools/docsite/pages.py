"""Which file of the repository is which page of the site."""

from functools import cached_property
from pathlib import Path

_FROM_ROOT = {
    "README.md": "generated/start",
    "CONTRIBUTING.md": "generated/contributing",
    "CHANGELOG.md": "generated/changelogs",
}
_FROM_PACKAGE = {"README.md": "generated/packages/{}", "CHANGELOG.md": "generated/changelogs/{}"}

SUFFIX = ".markdown"
"""Ends the names of copies, so that whoever looks for documents finds the originals alone."""

INDEX = "index"
"""The page that stands for `docs/README.md`, which lists the documents for readers of the files."""


class Site:
    """The pages by the files that they are made of.

    Args:
        root: The repository.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.docs = root / "docs"
        self.generated = self.docs / "generated"

    @cached_property
    def copies(self) -> dict[Path, str]:
        """Files outside the documentation that are shown in it, by the page that shows them."""
        found = {self.root / name: page for name, page in _FROM_ROOT.items()}
        for package in sorted((self.root / "packages").glob("*/")):
            for name, page in _FROM_PACKAGE.items():
                if (package / name).is_file():
                    found[package / name] = page.format(package.name)
        return {path: page for path, page in found.items() if path.is_file()}

    @cached_property
    def pages(self) -> dict[Path, str]:
        """Every file that is a page, by the page's name."""
        own = {
            path: path.relative_to(self.docs).with_suffix("").as_posix()
            for path in sorted(self.docs.rglob("*.md"))
            if self.generated not in path.parents
        }
        return {**own, **self.copies, self.docs / "README.md": INDEX}

    @cached_property
    def origins(self) -> dict[str, Path]:
        """The file that each page is made of."""
        return {page: path for path, page in self.pages.items() if path != self.docs / "README.md"}

    def write(self) -> None:
        """Copy what lies outside the documentation; a copy that is current is left alone."""
        current: set[Path] = set()
        for path, page in self.copies.items():
            target = self.docs / f"{page}{SUFFIX}"
            write_if_changed(target, path.read_text(encoding="utf-8"))
            current.add(target)
        for stale in set(self.generated.rglob(f"*{SUFFIX}")) - current:
            stale.unlink()


def write_if_changed(path: Path, text: str) -> None:
    """Write a file unless it holds the text, so that nobody reads again what has not changed."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
