import pytest

import compat_matrix
from pellucid.core import Verdict, compatibility_matrix


def test_the_page_is_current() -> None:
    assert compat_matrix.main(["--check"]) == 0, "run: uv run python tools/compat_matrix.py"


def test_a_page_that_is_not_current_is_told(tmp_path, capsys) -> None:
    page = tmp_path / "page.md"
    assert compat_matrix.main(["--check", "--out", str(page)]) == 1
    assert not page.exists()
    assert compat_matrix.main(["--out", str(page)]) == 0
    assert compat_matrix.main(["--check", "--out", str(page)]) == 0
    page.write_text(page.read_text().replace("| gcg |", "| gcp |", 1))
    assert compat_matrix.main(["--check", "--out", str(page)]) == 1
    assert "is not current" in capsys.readouterr().out


def test_the_page_says_of_each_triple_what_core_says() -> None:
    matrix = compatibility_matrix()
    page = compat_matrix.render(matrix)
    for model in matrix.models:
        section = page.split(f"## {model}\n", 1)[1].split("\n## ", 1)[0]
        _, _, head, _, *rows = [line for line in section.split("\n") if line or line == ""][1:-1]
        losses = [name.strip() for name in head.split("|")[2:-1]]
        assert losses == list(matrix.losses)
        assert len(rows) == len(matrix.optimizers)
        for row in rows:
            optimizer, *marks = [held.strip() for held in row.split("|")[1:-1]]
            for loss, mark in zip(losses, marks, strict=True):
                verdict = matrix.cell(model, optimizer, loss).report.verdict
                assert (mark == "yes") == (verdict is Verdict.YES)
                assert mark.replace(", ", "").isdigit() == (verdict is Verdict.CONDITIONAL)
                assert bool(mark)
                assert verdict is not Verdict.NO or set(mark) <= set("AGF ")


def test_what_cannot_be_imported_is_an_error(monkeypatch, capsys) -> None:
    broken = compatibility_matrix(models=["hf-lm"], optimizers=["gcg"], losses=["prefill-ce"])
    object.__setattr__(broken, "unavailable", {"model far": "it needs the module far"})
    monkeypatch.setattr(compat_matrix, "compatibility_matrix", lambda: broken)
    assert compat_matrix.main(["--check"]) == 1
    assert "it needs the module far" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["--chekc", "page.md"])
def test_unknown_arguments_are_refused(argument) -> None:
    with pytest.raises(SystemExit):
        compat_matrix.main([argument])
