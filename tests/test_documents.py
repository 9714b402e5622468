import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("packages/*/*.md"), *ROOT.glob("docs/**/*.md")})
GUIDES = [
    ROOT / "docs/scale-out.md",
    ROOT / "docs/wrap-your-own-model.md",
    *ROOT.glob("docs/compositions/*.md"),
    *ROOT.glob("docs/families/*.md"),
    *ROOT.glob("docs/how-to/*.md"),
    *ROOT.glob("docs/tutorials/*.md"),
]
READMES = [path for path in DOCUMENTS if path.name == "README.md" or path in GUIDES]
BLOCK = re.compile(r"^```(?:python|\{code-cell\} python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", READMES, ids=name)
def test_the_examples_of_a_readme_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of one file share their names, and tracebacks show the lines of that file.

    Tutorials are MyST notebooks: their cells are blocks.
    """
    monkeypatch.chdir(tmp_path)
    # Torch's switch is the process's.
    with torch.enable_grad():
        _run_blocks(path)


def _run_blocks(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        lines_before = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_before + block[1], str(path), "exec"), names)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_the_links_of_a_document_lead_somewhere(path: Path) -> None:
    targets = LINK.findall(path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []
