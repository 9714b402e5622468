import dataclasses

import pytest
import torch
from recipe_samples import RESPONSES, SMALL, TEMPLATES

from pellucid import recipes
from pellucid.core import (
    ArgumentError,
    Budget,
    CombinedLoss,
    NotDifferentiableError,
    RequirementError,
    Targets,
    TemplateError,
    UnknownNameError,
)
from pellucid.losses import PrefillCELoss, SimilarityLoss
from pellucid.optimizers import (
    DictTracker,
    GASLITEOptimizer,
    GCGOptimizer,
    PALOptimizer,
    TokenConstraints,
    get_printable_random_trigger,
)
from pellucid.recipes import ModelKind
from pellucid.testing import TinyLM

ALL = recipes.list_recipes()


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_every_recipe_runs_and_runs_the_same_again(recipe, make_task):
    task = make_task(recipe)
    one, other = (recipes.run(recipe.name, **task) for _ in range(2))
    assert len(one.losses) == 2
    assert one.seed == 5
    assert one.best_loss <= one.initial_loss
    assert (one.losses, one.best_trigger_str) == (other.losses, other.best_trigger_str)


STARTING_AT_RANDOM = [r for r in ALL if r.initial_trigger and not r.bans_target_tokens]


@pytest.mark.parametrize("recipe", STARTING_AT_RANDOM, ids=lambda recipe: recipe.name)
def test_a_random_start_has_its_length_and_follows_the_seed(recipe, make_task):
    task = {**make_task(recipe), "initial_trigger": None, "num_steps": 1}
    tracker = DictTracker()
    recipes.run(recipe.name, **task, tracker=tracker)
    expected = get_printable_random_trigger(
        recipe.initial_trigger.n_tokens,
        tokenizer=task["model"].tokenizer,
        generator=torch.Generator().manual_seed(5),
    )
    assert tracker.config["initial_trigger"] == expected


def test_gcg_is_gcg_made_by_hand(models):
    by_hand = GCGOptimizer(
        models["plain"], PrefillCELoss(), None, 3, num_steps=3, n_candidates=8, sample_topk=8
    ).optimize_trigger(
        TEMPLATES, "the cat", Targets(target_response_strs=RESPONSES), progress=False
    )
    by_name = recipes.run(
        "gcg__zou2023",
        model=models["plain"],
        templates=TEMPLATES,
        targets=RESPONSES,
        seed=3,
        initial_trigger="the cat",
        num_steps=3,
        overrides={"n_candidates": 8, "sample_topk": 8},
    )
    assert by_name.losses == by_hand.losses
    assert by_name.trigger_strs == by_hand.trigger_strs


def test_pal_is_pal_made_by_hand(models):
    settings = {"num_steps": 3, "n_candidates": 8, "sample_topk": 8}
    by_hand = PALOptimizer(
        models["plain"],
        PrefillCELoss(),
        None,
        3,
        proxy_model=models["other"],
        candidate_oversample_factor=1.1,
        n_candidates_after_proxy_filter=32,
        **settings,
    ).optimize_trigger(
        TEMPLATES, "the cat", Targets(target_response_strs=RESPONSES), progress=False
    )
    by_name = recipes.run(
        "pal__sitawarin2024",
        model=models["plain"],
        proxy_model=models["other"],
        templates=TEMPLATES,
        targets=RESPONSES,
        seed=3,
        initial_trigger="the cat",
        overrides=settings,
    )
    assert by_name.losses == by_hand.losses


def test_texts_are_goals_of_an_encoder(models):
    encoder = models[ModelKind.ENCODER]
    texts = ["the cat", "a dog"]
    vectors = encoder(texts).detach()
    by_hand = GASLITEOptimizer(
        encoder, SimilarityLoss(), None, 3, num_steps=2, **SMALL["gaslite"]
    ).optimize_trigger(TEMPLATES, "the cat", Targets(target_vectors=vectors), progress=False)
    by_name = recipes.run(
        "gaslite__bentov2024",
        model=encoder,
        templates=TEMPLATES,
        targets=texts,
        seed=3,
        initial_trigger="the cat",
        num_steps=2,
        overrides=SMALL["gaslite"],
    )
    assert by_name.losses == pytest.approx(by_hand.losses)


def test_a_teacher_is_imitated_without_the_trigger(models, make_task):
    recipe = recipes.get_recipe("flrt_distill")
    task = {**make_task(recipe), "num_steps": 1}
    other = recipes.run("flrt_distill", **task)
    task["teacher_model"] = task["model"]
    # Nobody is closer to its own answer without a trigger than the model itself is.
    itself = recipes.run("flrt_distill", **task)
    assert itself.initial_loss != other.initial_loss


def test_weights_and_settings_of_losses_can_be_chosen(models, make_task):
    recipe = recipes.get_recipe("gcg_perplexity")
    tracker = DictTracker()
    recipes.run(
        recipe,
        **make_task(recipe),
        tracker=tracker,
        loss_overrides={"trigger-perplexity": {"weight": 0.5, "temperature": 2.0}},
    )
    assert tracker.config["loss"] == repr(
        CombinedLoss(
            [PrefillCELoss(), type(_perplexity())(temperature=2.0)],
            [1.0, 0.5],
        )
    )


def _perplexity():
    from pellucid.losses import TriggerPerplexityLoss

    return TriggerPerplexityLoss()


def test_no_token_of_the_response_is_in_the_trigger_of_a_reversal(models, make_task):
    recipe = recipes.get_recipe("arca_reverse")
    result = recipes.run(recipe, **{**make_task(recipe), "num_steps": 4})
    tokenizer = models["plain"].tokenizer
    banned = {
        i
        for text in RESPONSES
        for spelling in (text, f" {text}")
        for i in tokenizer.wrapped(spelling, add_special_tokens=False)["input_ids"]
    }
    assert banned
    found = recipes.run(
        recipe,
        **{**make_task(recipe), "initial_trigger": None, "num_steps": 4},
    )
    assert not banned & set(found.best_trigger_ids.tolist())
    assert result.best_loss <= result.initial_loss


def test_constraints_may_be_plain_values(make_task):
    recipe = recipes.get_recipe("gcg__zou2023")
    tracker = DictTracker()
    task = make_task(recipe)
    task["overrides"] = {
        **task["overrides"],
        "token_constraints": {"disallow_custom_token_ids": [7]},
    }
    recipes.run(recipe, **task, tracker=tracker)
    assert tracker.config["hparam/token_constraints"] == str(
        TokenConstraints(disallow_custom_token_ids=[7])
    )


def test_a_budget_and_a_callback_end_a_run(make_task):
    recipe = recipes.get_recipe("gcg__zou2023")
    task = {**make_task(recipe), "num_steps": 50}
    assert recipes.run(recipe, **task, budget=Budget(limit=1)).stop_reason == "budget"
    stopped = recipes.run(recipe, **task, callbacks=[lambda step: step.step == 2])
    assert (stopped.stop_reason, len(stopped.losses)) == ("callback", 2)


def test_a_run_goes_on_from_its_checkpoint(make_task, tmp_path):
    recipe = recipes.get_recipe("gcg__zou2023")
    task = {**make_task(recipe), "num_steps": 4}
    whole = recipes.run(recipe, **task)
    kept = {"checkpoint_dir": tmp_path, "checkpoint_every": 1}
    recipes.run(recipe, **task, **kept, callbacks=[lambda step: step.step == 2])
    resumed = recipes.run(recipe, **task, **kept, resume=True)
    assert resumed.losses == whole.losses


def test_a_run_without_a_seed_goes_on_with_the_one_it_drew(make_task, tmp_path):
    recipe = recipes.get_recipe("gcg__zou2023")
    task = {**make_task(recipe), "seed": None, "num_steps": 2, "checkpoint_dir": tmp_path}
    begun = recipes.run(recipe, **task)
    resumed = recipes.run(recipe, **{**task, "num_steps": 3}, resume=True)
    assert resumed.seed == begun.seed
    assert resumed.losses[:2] == begun.losses


@pytest.mark.parametrize("name", ["gcg__zou2023", "prompt_recovery_gcg"])
def test_a_seed_is_drawn_and_recorded(make_task, name):
    recipe = recipes.get_recipe(name)
    task = {**make_task(recipe), "seed": None, "initial_trigger": None}
    drawn = recipes.run(recipe, **task)
    assert recipes.run(recipe, **{**task, "seed": drawn.seed}).losses == drawn.losses


def test_a_model_may_be_named():
    result = recipes.run(
        "gcg__zou2023",
        model="zoo:tiny-chat",
        templates=["What colour is Mira's bicycle? {{OPTIMIZED_TRIGGER}}"],
        targets=["Mira's bicycle is purple."],
        initial_trigger="! ! ! !",
        num_steps=1,
        overrides={"n_candidates": 4},
    )
    assert len(result.losses) == 1


@pytest.fixture
def task():
    """A run of a small model, which counts what it computes."""
    return {
        "model": TinyLM(seed=1),
        "templates": TEMPLATES,
        "targets": RESPONSES,
        "initial_trigger": "the cat",
        "num_steps": 2,
        "overrides": {"n_candidates": 4},
    }


def _recipe_of(name, **fields):
    return dataclasses.replace(recipes.get_recipe(name), **fields)


WRONG = {
    "unknown recipe": ({"name": "gcg__zuo2023"}, UnknownNameError, "Did you mean 'gcg__zou2023'"),
    "unknown setting": (
        {"overrides": {"n_candidate": 4}},
        UnknownNameError,
        "unknown setting of GCGOptimizer 'n_candidate'. Did you mean 'n_candidates'",
    ),
    "the seed as a setting": (
        {"overrides": {"seed": 4}},
        UnknownNameError,
        "unknown setting of GCGOptimizer 'seed'",
    ),
    "a setting out of range": (
        {"overrides": {"n_candidates": 0}},
        ArgumentError,
        "n_candidates must be a whole number of at least 1, got 0",
    ),
    "more tokens than there are": (
        {"overrides": {"sample_topk": 10**6}},
        ArgumentError,
        "sample_topk=1000000 exceeds the vocabulary",
    ),
    "steps twice": (
        {"overrides": {"num_steps": 3}},
        ArgumentError,
        "num_steps=2 is given beside",
    ),
    "unknown loss": (
        {"loss_overrides": {"prefill-cw": {}}},
        UnknownNameError,
        "unknown loss of gcg__zou2023 'prefill-cw'",
    ),
    "unknown setting of a loss": (
        {"loss_overrides": {"prefill-ce": {"temprature": 2}}},
        UnknownNameError,
        "unknown setting of prefill-ce 'temprature'. Did you mean 'temperature'",
    ),
    "unknown constraint": (
        {"overrides": {"token_constraints": {"ascii": True}}},
        UnknownNameError,
        "unknown setting of TokenConstraints 'ascii'",
    ),
    "missing proxy": (
        {"name": "pal__sitawarin2024"},
        RequirementError,
        "'pal__sitawarin2024' needs proxy_model=, a local language model",
    ),
    "missing draft": (
        {"name": "probe_sampling__zhao2024"},
        RequirementError,
        "needs draft_model=, a smaller language model",
    ),
    "missing judge": (
        {"name": "advdecoding_jailbreak__zhang2024"},
        RequirementError,
        "needs judge=, a language model that is asked",
    ),
    "missing teacher": ({"name": "flrt_distill"}, RequirementError, "needs teacher_model="),
    "a model without a role": (
        {"judge": "zoo:tiny-chat"},
        RequirementError,
        "'gcg__zou2023' has no role for judge='zoo:tiny-chat'",
    ),
    "no template": ({"templates": []}, TemplateError, "at least one template"),
    "no placeholder": ({"templates": ["hello"]}, TemplateError, "0 times"),
    "one template of a universal trigger": (
        {"name": "gcg_mult__zou2023", "templates": TEMPLATES[:1], "targets": RESPONSES[:1]},
        ArgumentError,
        "is for 2 templates or more, got 1",
    ),
    "fewer targets than templates": (
        {"targets": RESPONSES[:1]},
        TemplateError,
        "2 templates need 2 targets, got 1",
    ),
    "no targets": (
        {"targets": None},
        ArgumentError,
        "needs targets with target_response_strs, got none",
    ),
    "other targets": (
        {"targets": Targets(target_class_idx=[1, 2])},
        ArgumentError,
        "needs targets with target_response_strs, got target_class_idx",
    ),
    "a text for a list of targets": ({"targets": "a cat"}, ArgumentError, "a list of texts"),
    "an encoder's recipe": (
        {"name": "gaslite__bentov2024"},
        RequirementError,
        "SimilarityLoss reads 'output_embeddings', which TinyLM does not provide",
    ),
    "a loss without gradient": (
        {
            "name": _recipe_of(
                "gcg__zou2023", losses=recipes.get_recipe("prs__andriushchenko2024").losses
            )
        },
        NotDifferentiableError,
        "FirstTokenNLLLoss has none",
    ),
    "no directions": (
        {"name": "iris__huang2025"},
        ArgumentError,
        "needs targets with target_directions",
    ),
    "a model that is unknown": (
        {"model": "zoo:lion"},
        UnknownNameError,
        "unknown zoo model 'lion'",
    ),
    "checkpoints never": ({"checkpoint_every": 0}, ArgumentError, "checkpoint_every must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_before_the_first_forward(case, task):
    changes, kind, message = WRONG[case]
    model = task["model"]
    given = {"name": "gcg__zou2023", **task, **changes}
    name = given.pop("name")
    with pytest.raises(kind) as caught:
        recipes.run(name, **given)
    assert message in str(caught.value)
    assert model.get_usage_stats()["forward_calls"] == 0


def test_nothing_but_the_name_goes_by_position(task):
    with pytest.raises(TypeError, match="positional"):
        recipes.run("gcg__zou2023", task.pop("model"), **task)
    with pytest.raises(TypeError, match="positional"):
        recipes.run("gcg__zou2023", task.pop("templates"), task.pop("targets"), **task)


def test_a_model_in_the_place_of_the_name_is_refused(task):
    model = task.pop("model")
    with pytest.raises(TypeError):
        recipes.run(model, model="gcg__zou2023", **task)
    assert model.get_usage_stats()["forward_calls"] == 0


def test_a_random_start_needs_a_seed_when_a_run_goes_on(task, tmp_path):
    with pytest.raises(ArgumentError, match="there is no seed to draw them with"):
        recipes.run(
            "pez__wen2023",
            **{**task, "initial_trigger": None, "overrides": {}},
            checkpoint_dir=tmp_path,
            resume=True,
        )


def test_a_teacher_of_other_tokens_is_refused(task, models):
    with pytest.raises(RequirementError, match="must be a language model of the target's tokens"):
        recipes.run("flrt_distill", **task, teacher_model=models["plain"])
