import subprocess
import sys

import pytest
import yaml

from pellucid.recipes import get_recipe, list_recipes, load_rows
from pellucid.testing import TinyLM

ASKED = (
    "--template=I see {{OPTIMIZED_TRIGGER}} now.",
    "--target=a cat",
    "--initial-trigger=the dog",
    "--steps=2",
    "--set=n_candidates=6",
    "--seed=3",
)


@pytest.fixture
def tiny_recipes(command, monkeypatch):
    """Runs the command; whatever model is named, it gets a random one that takes milliseconds."""
    from pellucid.recipes import _order

    monkeypatch.setattr(_order, "load_model", lambda spec, **how: TinyLM(seed=1))
    return command


def test_recipes_are_listed_one_a_line(command):
    done = command("recipes")
    assert done.code == 0
    lines = done.out.splitlines()
    assert len(lines) == 1 + len(list_recipes())
    for recipe, line in zip(list_recipes(), lines[1:], strict=True):
        assert line.startswith(recipe.name)
        assert line.rstrip().endswith(recipe.summary)
        assert recipe.paper.cite() in line


@pytest.mark.parametrize("name", ["gcg_hij__bentov2025", "qcg__hayase2024", "pez__wen2023"])
def test_a_recipe_is_shown_whole(command, name):
    done = command("recipes", "show", name)
    recipe = get_recipe(name)
    assert done.code == 0
    for text in (recipe.paper.title, recipe.optimizer, recipe.differs):
        assert text in done.out
    for setting, held in recipe.settings.items():
        assert f"{setting}={held!r}" in done.out
    for role in recipe.roles:
        assert f"--{role.argument.replace('_', '-')} (needed)" in done.out


def test_a_run_is_a_row_of_a_table(tiny_recipes, tmp_path):
    done = tiny_recipes("recipes", "run", "gcg__zou2023", *ASKED, "--out", tmp_path)
    assert done.code == 0, done.err
    (row,) = load_rows(tmp_path)
    assert (row["recipe"], row["seed"], row["steps"]) == ("gcg__zou2023", 3, 2)
    assert row["overrides"] == {"n_candidates": 6}
    assert f"{row['best_loss']:.4f}" in done.out
    assert str(tmp_path / "results.jsonl") in done.out
    again = tiny_recipes("recipes", "run", "gcg__zou2023", *ASKED, "--out", tmp_path)
    assert again.out == done.out
    assert load_rows(tmp_path) == [row]


def test_a_run_is_a_file(tiny_recipes, tmp_path):
    path = tmp_path / "run.yaml"
    held = {
        "recipe": "gcg__zou2023",
        "model": "tiny",
        "templates": ["I see {{OPTIMIZED_TRIGGER}} now."],
        "targets": ["a cat"],
        "initial_trigger": "the dog",
        "num_steps": 2,
        "overrides": {"n_candidates": 6, "sample_topk": 5},
    }
    path.write_text(yaml.safe_dump(held), encoding="utf-8")
    out = tmp_path / "out"
    options = ("--config", path, "--seed=7", "--set=sample_topk=9", "--out", out)
    done = tiny_recipes("recipes", "run", *options)
    assert done.code == 0, done.err
    (row,) = load_rows(out)
    assert (row["seed"], row["overrides"]) == (7, {"n_candidates": 6, "sample_topk": 9})


WRONG = {
    "unknown recipe": (
        ["gcg__zou203"],
        r"unknown recipe 'gcg__zou203'. Did you mean 'gcg__zou2023'",
    ),
    "no recipe": ([], "no recipe is named. Write pellucid recipes run NAME"),
    "unknown setting": (
        ["gcg__zou2023", *ASKED, "--set=n_candidate=3"],
        "unknown setting of GCGOptimizer 'n_candidate'. Did you mean 'n_candidates'",
    ),
    "no value": (["gcg__zou2023", *ASKED, "--set=topk"], "--set expects NAME=VALUE, got 'topk'"),
    "no template": (["gcg__zou2023"], "there is no template. Give --template"),
    "missing proxy": (["pal__sitawarin2024", *ASKED], "needs proxy_model=, a local language"),
    "no file": (["--config=nowhere.yaml"], "cannot read 'nowhere.yaml'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(tiny_recipes, tmp_path, case):
    words, message = WRONG[case]
    done = tiny_recipes("recipes", "run", *words, "--out", tmp_path / "out")
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_an_unknown_name_is_answered_with_near_ones(command):
    done = command("recipes", "show", "gcg_zou2023")
    assert (done.code, done.out) == (2, "")
    assert "Did you mean 'gcg__zou2023'" in done.err


@pytest.mark.parametrize("words", [["recipes"], ["recipes", "show"], ["recipes", "run"]])
def test_help_teaches_by_example_and_imports_nothing_heavy(words):
    program = (
        "import sys; from pellucid.cli import run\n"
        f"code = run({[*words, '--help']!r})\n"
        "heavy = [n for n in ('torch', 'yaml', 'pellucid.core') if n in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout
    assert f"pellucid {' '.join(words)}" in done.stdout
