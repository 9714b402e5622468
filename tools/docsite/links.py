"""Links between files of the repository, turned into links between pages of the site."""

import os
import re
from pathlib import Path, PurePosixPath

from docsite.pages import Site

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]\[]*)\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```[ \t]*$)", re.DOTALL | re.MULTILINE)
_ELSEWHERE = ("http://", "https://", "mailto:", "#")


def rewrite(text: str, origin: Path, page: str, site: Site) -> tuple[str, list[str]]:
    """Return a page's text with its links leading to pages, and the targets that are not there.

    A link to a file that is no page, such as a script, becomes its text: the site does not hold it.
    Code is left as it is.

    Args:
        text: The text of `origin`.
        origin: The file that links are relative to.
        page: The page that the text is shown on.
        site: The pages there are.
    """
    broken: list[str] = []

    def replace(match: re.Match[str]) -> str:
        target = match["target"]
        if target.startswith(_ELSEWHERE):
            return match[0]
        name, _, anchor = target.partition("#")
        path = Path(os.path.normpath(origin.parent / name))
        if not path.exists():
            broken.append(target)
            return match[0]
        found = _find(path, page, site)
        if found is None:
            return match["text"]
        return f"{match['image']}[{match['text']}]({found}{'#' + anchor if anchor else ''})"

    pieces = _FENCE.split(text)
    pieces[::2] = [_LINK.sub(replace, piece) for piece in pieces[::2]]
    return "".join(pieces), broken


def _find(path: Path, page: str, site: Site) -> str | None:
    """Return the address of a file from a page, or None if the site does not hold it."""
    folder = PurePosixPath(page).parent
    for candidate in (path, path / "README.md"):
        if candidate in site.pages:
            target = site.docs / (site.pages[candidate] + _suffix(candidate, site))
            return os.path.relpath(target, site.docs / folder)
    is_ours = path.is_file() and site.docs in path.parents
    return os.path.relpath(path, site.docs / folder) if is_ours else None


def _suffix(path: Path, site: Site) -> str:
    return ".markdown" if path in site.copies else ".md"
