"""What the documentation's Sphinx needs besides Sphinx: `docs/conf.py` names it as an extension.

Before anything is read, `pages` puts a copy of every README and changelog into `docs/generated`,
and `reference` a page for every public module. Links that lead from a file of the repository to
another are then turned into links of the site (`links`), and the cells of tutorials are run
(`cells`).
"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

from docsite.cells import CodeCell, copy_plotly
from docsite.links import rewrite
from docsite.pages import Site
from docsite.reference import write_reference

AFTER_NAPOLEON = 600

_LOG = logging.getLogger(__name__)
_CODE = re.compile(r"(`[^`]*`)")
_STAR = re.compile(r"(?<!\\)\*")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    site = Site(Path(app.srcdir).parent)

    def generate(app: Sphinx) -> None:
        site.write()
        write_reference(site.root, site.generated / "reference")

    def read(app: Sphinx, docname: str, content: list[str]) -> None:
        origin = site.origins.get(docname)
        if origin is None:
            return
        content[0], broken = rewrite(content[0], origin, docname, site)
        for target in broken:
            _LOG.warning("%s links to %r, which is not there", origin, target, location=docname)

    app.connect("builder-inited", generate)
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", escape_axes, priority=AFTER_NAPOLEON)
    app.connect("build-finished", copy_plotly)
    app.add_directive("code-cell", CodeCell)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}


def escape_axes(
    app: Sphinx, what: str, name: str, held: object, options: object, lines: list[str]
) -> None:
    """Keep a star that begins the name of axes, as in [*rest, row], from opening an emphasis."""
    del app, what, name, held, options
    for number, line in enumerate(lines):
        pieces = _CODE.split(line)
        if sum(len(_STAR.findall(piece)) for piece in pieces[::2]) % 2:
            pieces[::2] = [_STAR.sub(r"\\*", piece) for piece in pieces[::2]]
            lines[number] = "".join(pieces)
