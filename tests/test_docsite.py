"""What the documentation's site is made of; the site itself is built by its own command."""

import re
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest

from docsite.cells import Notebook
from docsite.links import rewrite
from docsite.pages import INDEX, Site
from docsite.reference import describe_modules, find_data, members, public_modules, render

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def site(tmp_path):
    files = {
        "README.md": "",
        "tools/bench/x.py": "",
        "docs/README.md": "",
        "docs/index.md": "",
        "docs/guide.md": "",
        "docs/deep/page.md": "",
        "docs/deep/curve.svg": "",
        "packages/core/README.md": "# core",
        "packages/core/CHANGELOG.md": "# changes",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Site(tmp_path)


@pytest.mark.parametrize(
    ("page", "link", "becomes"),
    [
        ("guide", "[a](deep/page.md)", "[a](deep/page.md)"),
        ("deep/page", "[a](../guide.md#why)", "[a](../guide.md#why)"),
        (
            "deep/page",
            "[a](../../packages/core/README.md)",
            "[a](../generated/packages/core.markdown)",
        ),
        ("guide", "[`x`](../tools/bench/x.py)", "`x`"),
        ("guide", "[a](../tools)", "a"),
        ("deep/page", "![a](curve.svg)", "![a](curve.svg)"),
        ("deep/page", "[a](../README.md)", "[a](../index.md)"),
        ("generated/start", "[a](docs/deep)", "a"),
        ("generated/start", "[a](docs)", "[a](../index.md)"),
        ("generated/start", "[a](packages/core)", "[a](packages/core.markdown)"),
        ("generated/packages/core", "[a](CHANGELOG.md)", "[a](../changelogs/core.markdown)"),
        ("guide", "[a](https://example.org) [b](#b)", "[a](https://example.org) [b](#b)"),
        ("guide", "```\n[a](../tools)\n```\n", "```\n[a](../tools)\n```\n"),
    ],
)
def test_links_between_files_become_links_between_pages(site, page, link, becomes):
    assert rewrite(link, site.origins[page], page, site) == (becomes, [])


def test_a_link_that_leads_nowhere_is_told(site):
    text, broken = rewrite("[a](gone.md)", site.docs / "guide.md", "guide", site)
    assert (text, broken) == ("[a](gone.md)", ["gone.md"])


def test_copies_are_written_once_and_removed_with_their_files(site):
    site.write()
    copy = site.generated / "packages/core.markdown"
    written = copy.stat().st_mtime_ns
    assert copy.read_text() == "# core"
    site.write()
    assert copy.stat().st_mtime_ns == written
    (site.root / "packages/core/README.md").unlink()
    Site(site.root).write()
    assert not copy.exists()


def test_generated_copies_are_no_pages_of_their_own(site):
    site.write()
    (site.generated / "stray.md").write_text("")
    assert set(Site(site.root).pages.values()) == set(site.pages.values())
    assert site.pages[site.docs / "README.md"] == INDEX


def test_every_document_is_reached_from_the_index():
    """What no toctree names is a warning of Sphinx; here it is found without building."""
    named = set()
    for path in (ROOT / "docs").rglob("*.md"):
        folder = path.parent.relative_to(ROOT / "docs")
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", path.read_text(), re.M | re.S):
            for entry in block.split("\n"):
                if entry and not entry.startswith(":"):
                    named |= {
                        found.relative_to(ROOT / "docs")
                        for found in (ROOT / "docs").glob(f"{(folder / entry).as_posix()}.md")
                    }
    documents = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    assert documents - named - {Path("README.md"), Path("index.md")} == set()


def test_every_package_has_a_page_of_the_reference():
    modules = public_modules(ROOT)
    packages = {f"pellucid.{path.name}" for path in (ROOT / "packages").iterdir() if path.is_dir()}
    assert packages <= set(modules)
    assert modules == sorted(modules, key=lambda name: (name.count("."), name))


def test_what_several_modules_export_is_described_once(tmp_path, monkeypatch):
    inner = "__all__ = ['LIMIT', 'Thing', 'Wrong', 'make']\nLIMIT = 3\nclass Thing: ...\n"
    inner += "class Wrong(ValueError): ...\ndef make(): ...\n"
    (tmp_path / "docsite_inner.py").write_text(inner)
    outer = "from docsite_inner import Thing, make\n__all__ = ['Thing', 'make']\n"
    (tmp_path / "docsite_outer.py").write_text(outer)
    monkeypatch.syspath_prepend(tmp_path)
    first, second = describe_modules(["docsite_outer", "docsite_inner"])
    assert first.names == {"Classes": ["Thing"], "Errors": [], "Functions": ["make"], "Data": []}
    assert second.names == {"Classes": [], "Errors": ["Wrong"], "Functions": [], "Data": ["LIMIT"]}
    assert second.elsewhere == {"Thing": "docsite_outer.Thing", "make": "docsite_outer.make"}
    assert ":py:obj:`docsite_outer.Thing`" in render(second)
    assert ".. py:data:: docsite_inner.LIMIT\n   :value: 3" in render(second)


def test_data_is_found_where_it_is_defined():
    value, text = find_data("pellucid.core", "OPTIMIZED_TRIGGER_PLACEHOLDER")
    assert value == "'{{OPTIMIZED_TRIGGER}}'"
    assert text
    assert find_data("pellucid.core", "nothing") == ("", "")


def test_members_of_private_bases_are_those_of_the_class():
    from pellucid.bridge import TransformerBridge
    from pellucid.core import BaseModel
    from pellucid.hf import LMHFModel

    assert {"run_with_cache", "boot_transformers", "generate"} <= set(members(TransformerBridge))
    assert not any(name.startswith("_") for name in members(TransformerBridge))
    # A public base has an entry of its own.
    assert not set(members(LMHFModel)) & {"reset_usage_stats", "get_usage_stats"}
    assert "get_usage_stats" in members(BaseModel)


def test_cells_share_their_names_and_show_what_they_leave():
    import torch

    notebook = Notebook("page.md")
    assert notebook.run("x = 20\nprint('hi')", 3).text == "hi\n"
    assert notebook.run("y = x + 1\ny * 2", 9).text == "42"
    assert notebook.run("None", 9).text == ""
    notebook.run("import torch; _ = torch.set_grad_enabled(False)", 1)
    assert torch.is_grad_enabled()
    assert notebook.run("torch.is_grad_enabled()", 2).text == "False"
    assert Notebook("other.md").run("import torch\ntorch.is_grad_enabled()", 2).text == "True"


def test_a_cell_that_fails_names_its_line():
    with pytest.raises(ZeroDivisionError) as failed:
        Notebook("page.md").run("x = 1\n1 / 0", 10)
    last = traceback.extract_tb(failed.tb)[-1]
    assert (last.filename, last.lineno) == ("page.md", 12)


def test_a_figure_is_drawn_by_the_sites_own_script():
    go = pytest.importorskip("plotly.graph_objects", reason="figures are plotly's")
    notebook = Notebook("page.md", names={"go": go, "SimpleNamespace": SimpleNamespace})
    output = notebook.run("go.Figure(go.Bar(y=[1, 2]))", 1)
    assert output.text == ""
    assert 'id="page-1"' in output.html
    assert "cdn" not in output.html
    assert (
        output.html
        == Notebook("page.md", names={"go": go}).run("go.Figure(go.Bar(y=[1, 2]))", 1).html
    )
