"""The site: uv run --group docs sphinx-build -W -n docs dist/site."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

# Signatures are read from the functions themselves, not from what checks them.
os.environ.setdefault("PELLUCID_TYPECHECK", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

project = "Pellucid"
copyright = "The Pellucid authors"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docsite",
]

root_doc = "index"
source_suffix = {".md": "markdown", ".markdown": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["README.md"]  # for readers of the files; index.md is for those of the site
nitpicky = True
nitpick_ignore_regex = [
    # Nothing is fetched, so that other projects' names cannot be looked up.
    (r"py:.*", r"(?!pellucid\b).*"),
    # A private base or type parameter has no page; its name stands in the signature.
    (r"py:.*", r"pellucid\..*\b_.*"),
    (r"py:.*", r"pellucid\.xlm\.contracts\.(Batch|Out|Preds)"),
]

myst_heading_anchors = 4
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "Pellucid"
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"
