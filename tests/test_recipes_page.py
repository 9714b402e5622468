from pathlib import Path

import pytest

import recipes_page
from pellucid import recipes


def test_the_page_of_recipes_is_current() -> None:
    page = recipes_page.PAGE.read_text(encoding="utf-8")
    assert recipes_page.render(recipes.list_recipes()) == page, "run tools/recipes_page.py"


def test_every_recipe_and_every_paper_is_on_the_page() -> None:
    page = recipes_page.PAGE.read_text(encoding="utf-8")
    for recipe in recipes.list_recipes():
        assert f"| `{recipe.name}`" in page
        assert f"- **{recipe.name}**: `{recipe.optimizer}`" in page
        assert recipe.paper is None or recipe.paper.title in page


def test_a_page_that_is_not_current_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes_page, "PAGE", tmp_path / "recipes.md")
    assert recipes_page.main(["--check"]) == 1
    assert recipes_page.main([]) == 0
    assert recipes_page.main(["--check"]) == 0
