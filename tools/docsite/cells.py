"""The cells of MyST notebooks, run while the site is built and shown with what they print."""

import ast
import contextlib
import io
import sys
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PLOTLY = "plotly.min.js"
"""The script that draws figures; the site brings its own."""

_NOTEBOOK = "docsite_notebook"


@dataclass(frozen=True)
class Output:
    """What a cell leaves to be seen.

    Attributes:
        text: What it printed, and its last expression if that is no picture.
        html: Its last expression, if that is a picture.
    """

    text: str
    html: str | None


@dataclass
class Notebook:
    """The cells of one page, which share their names.

    Attributes:
        path: The page, for tracebacks.
        names: What the cells have defined.
        has_grad: Whether torch keeps gradients in the next cell; other pages see nothing of it.
        figures: How many figures there have been.
    """

    path: str
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    has_grad: bool = True
    figures: int = 0

    def run(self, source: str, line: int) -> Output:
        """Run a cell.

        Args:
            source: Its code.
            line: The line of the page before its first.

        Raises:
            Exception: Whatever the cell raises.
        """
        tree = ast.parse("\n" * line + source, self.path)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        printed = io.StringIO()
        value: Any = None
        with contextlib.redirect_stdout(printed), self._gradients():
            exec(compile(tree, self.path, "exec"), self.names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), self.path, "eval"), self.names)
        html = self._draw(value)
        shown = "" if value is None or html is not None else repr(value)
        return Output(text=printed.getvalue() + shown, html=html)

    @contextlib.contextmanager
    def _gradients(self) -> Generator[None]:
        import torch  # noqa: PLC0415 - heavy

        before = torch.is_grad_enabled()
        torch.set_grad_enabled(self.has_grad)
        try:
            yield
            self.has_grad = torch.is_grad_enabled()
        finally:
            torch.set_grad_enabled(before)

    def _draw(self, value: Any) -> str | None:
        if not type(value).__module__.startswith("plotly."):
            return None
        self.figures += 1
        # A name of its own, where plotly draws one at random: a build is repeatable.
        name = f"{Path(self.path).stem}-{self.figures}"
        return value.to_html(full_html=False, include_plotlyjs=False, div_id=name)


class CodeCell(SphinxDirective):
    """Runs a cell, and shows its code and its output."""

    has_content = True
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the cell.

        Raises:
            Exception: Whatever the cell raises; the build ends.
        """
        source = "\n".join(self.content)
        page: Any = self.env.current_document
        if _NOTEBOOK not in page:
            page[_NOTEBOOK] = Notebook(str(self.env.doc2path(self.env.docname)))
        notebook: Notebook = page[_NOTEBOOK]
        output = notebook.run(source, self.content_offset)
        found: list[nodes.Node] = [nodes.literal_block(source, source, language="python")]
        if output.text:
            classes = ["cell-output"]
            found.append(
                nodes.literal_block(output.text, output.text, language="none", classes=classes)
            )
        if output.html is not None:
            script = self._script() if notebook.figures == 1 else ""
            found.append(nodes.raw("", script + output.html, format="html"))
        return found

    def _script(self) -> str:
        up = "../" * self.env.docname.count("/")
        return f'<script src="{up}_static/{PLOTLY}"></script>\n'


def copy_plotly(app: Sphinx, exception: Exception | None) -> None:
    """Put the script that draws figures beside the pages."""
    plotly: Any = sys.modules.get("plotly.offline")
    if exception is None and plotly is not None and app.builder.format == "html":
        path = Path(app.outdir) / "_static" / PLOTLY
        path.write_text(plotly.get_plotlyjs(), encoding="utf-8")
