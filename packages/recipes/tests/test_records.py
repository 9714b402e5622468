import importlib
import inspect
import re
import sys
import types
from importlib.metadata import EntryPoint

import pytest

from pellucid import recipes
from pellucid.core import (
    ArgumentError,
    LossTextAccessMixin,
    RequirementError,
    UnknownNameError,
    _registry,
    load,
    names,
)
from pellucid.recipes import Access, LossPart, MiddleLayers, Paper, Recipe
from pellucid.testing import TinyLM

ALL = recipes.list_recipes()

KNOWN_TO_USERS = """
    hotflip__ebrahimi2018 autoprompt__shin2020 arca__jones2023 gcg__zou2023 gcg_mult__zou2023
    gcg_perplexity gcg_emb classifier_gcg gcg_hij__bentov2025 attn_gcg__wang2024 iris__huang2025
    iris2 flrt_distill mac__wang2024 mac__zhang2024 gbda__guo2021 pez__wen2023
    prompt_recovery__wen2023 pal__sitawarin2024 ral__sitawarin2024 gcgp_pal__sitawarin2024
    qcg__hayase2024 gcgp_whitebox__hayase2024 gcgp_blackbox__hayase2024 beast__sadasivan2024
    advdecoding_jailbreak__zhang2024 advdecoding_retrieval__zhang2024 prs__andriushchenko2024
    rs_emb gaslite__bentov2024 gasliteplus_encoder gasliteplus_llm rasliteplus rasliteplus_llm
    soft_prompt__schwinn2024 soft_prompt_encoder uat_classifier pgd__geisler2024
    probe_sampling__zhao2024
""".split()


@pytest.mark.parametrize("name", KNOWN_TO_USERS)
def test_what_users_know_is_there_by_its_name(name):
    recipe = recipes.get_recipe(name)
    assert name in (recipe.name, *recipe.aliases)


def test_every_record_is_registered_under_its_name():
    modules = [
        importlib.import_module(f"pellucid.recipes.{name}")
        for name in ("_white_box", "_black_box", "_other_models")
    ]
    records = {
        id(held): held
        for module in modules
        for held in vars(module).values()
        if isinstance(held, Recipe)
    }
    assert {recipe.name for recipe in records.values()} == {recipe.name for recipe in ALL}
    assert len(ALL) == len(records) == len({recipe.name for recipe in ALL})
    aliases = {alias for recipe in ALL for alias in recipe.aliases}
    assert set(names("pellucid.recipes")) >= {*(recipe.name for recipe in ALL), *aliases}


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_a_record_is_complete(recipe):
    assert recipe.summary.endswith(".")
    assert len(recipe.summary) < 100
    assert recipe.paper is not None
    assert recipe.paper.title
    assert recipe.paper.authors
    if recipe.paper.arxiv is not None:
        assert re.fullmatch(r"\d{4}\.\d{5}", recipe.paper.arxiv)
    if recipe.is_published:
        author, year = re.fullmatch(r".*__([a-z]+)(\d{4})", recipe.name).groups()
        assert recipe.paper.authors[0].lower().replace("-", "") == author
        assert recipe.paper.year == int(year)


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_settings_are_parameters_of_the_optimizer_and_the_losses(recipe):
    optimizer = load("pellucid.optimizers", recipe.optimizer)
    assert set(recipe.settings) <= set(inspect.signature(optimizer).parameters)
    assert "num_steps" in recipe.settings
    for part in recipe.losses:
        loss = load("pellucid.losses", part.name)
        assert set(part.settings) <= set(inspect.signature(loss).parameters)


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_a_black_box_is_asked_for_no_more_than_losses_of_texts(recipe):
    optimizer = load("pellucid.optimizers", recipe.optimizer)
    if recipe.access is Access.BLACK_BOX:
        assert optimizer.model_requirements == (LossTextAccessMixin,)


def test_the_default_of_a_recipe_of_several_losses_is_what_was_published():
    attention = recipes.get_recipe("gcg_hij__bentov2025").losses
    assert [(part.name, part.weight) for part in attention] == [
        ("prefill-ce", 1.0),
        ("attention-enh", 100.0),
    ]


def test_a_misspelt_name_is_answered_with_near_ones():
    with pytest.raises(UnknownNameError, match=r"unknown recipe 'gcg_zou2023'.*'gcg__zou2023'"):
        recipes.get_recipe("gcg_zou2023")


@pytest.fixture
def register(monkeypatch):
    """Registers objects as recipes, as another distribution would."""

    def add(**held):
        monkeypatch.setitem(sys.modules, "recipe_plugin", types.SimpleNamespace(**held))
        entries = {
            name: EntryPoint(name, f"recipe_plugin:{name}", "pellucid.recipes") for name in held
        }
        monkeypatch.setattr(_registry, "_entries", lambda group: entries)

    return add


def test_another_distribution_registers_alike(register):
    mine = Recipe(
        name="mine__somebody2026",
        summary="Mine.",
        paper=None,
        optimizer="gcg",
        losses=(LossPart(name="prefill-ce"),),
        access=Access.WHITE_BOX,
        aliases=("also_mine",),
    )
    register(mine__somebody2026=mine, also_mine=mine)
    assert recipes.list_recipes() == [mine]
    assert recipes.get_recipe("also_mine") is mine


def test_what_is_registered_must_be_a_recipe_of_its_name(register):
    register(wrong=recipes.get_recipe("gcg__zou2023"), number=3)
    for name in ("wrong", "number"):
        with pytest.raises(RequirementError, match="expected a Recipe of this name"):
            recipes.get_recipe(name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Not A Name"}, "small letters, digits and underscores, got 'Not A Name'"),
        ({"losses": ()}, "the recipe 'mine' has no loss"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(fields, message):
    good = {
        "name": "mine",
        "summary": "Mine.",
        "paper": None,
        "optimizer": "gcg",
        "losses": (LossPart(name="prefill-ce"),),
        "access": Access.WHITE_BOX,
    }
    with pytest.raises(ArgumentError, match=message):
        Recipe(**{**good, **fields})


def test_records_cannot_be_changed():
    recipe = recipes.get_recipe("gcg__zou2023")
    with pytest.raises(TypeError):
        recipe.settings["num_steps"] = 1
    with pytest.raises(AttributeError):
        recipe.name = "x"


def test_papers_are_cited_by_their_authors():
    for authors, cited in [
        (("One",), "One 2026"),
        (("One", "Two"), "One and Two 2026"),
        (("One", "Two", "Three"), "One et al. 2026"),
    ]:
        assert Paper(title="T", authors=authors, year=2026).cite() == cited
    assert recipes.get_recipe("gcg__zou2023").paper.cite() == "Zou et al. 2023, arXiv 2307.15043"


@pytest.mark.parametrize(
    ("share", "n_layers", "picked"),
    [(0.8, 10, range(1, 9)), (0.0, 5, [2]), (1.0, 3, range(3)), (0.8, 2, range(2))],
)
def test_middle_layers_lie_in_the_middle(share, n_layers, picked):
    model = TinyLM()
    model.n_layers = n_layers
    assert MiddleLayers(share).pick(model) == tuple(picked)


def test_middle_layers_need_a_model_that_counts_its_layers():
    with pytest.raises(RequirementError, match="has no n_layers"):
        MiddleLayers(0.5).pick(TinyLM())
