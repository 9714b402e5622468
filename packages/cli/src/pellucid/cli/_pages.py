"""Pages that need nothing but themselves: what their templates have in common."""

import functools
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from pellucid.cli._progress import count
from pellucid.cli._visible import visible


def page_template(name: str, **filters: Callable[[Any], str]) -> Template:
    """Return a page's template. What is put into it is escaped.

    Args:
        name: Its file in this package.
        **filters: Further filters, beside `count`, `lines` and `visible`.
    """
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(read_part),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "lines": functools.partial(visible, keep_lines=True),
        "visible": visible,
        **filters,
    }
    return environment.get_template(name)


def read_part(name: str) -> str:
    """Return the text of one of this package's files, such as `page.css`."""
    return files("pellucid.cli").joinpath(name).read_text(encoding="utf-8")
