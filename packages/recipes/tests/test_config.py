import re

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from recipe_samples import RESPONSES, TEMPLATES

from pellucid.core import ArgumentError, Budget, PellucidError, Targets, TemplateError
from pellucid.recipes import RecipeConfig

PLAIN = {
    "recipe": "gcg__zou2023",
    "model": "zoo:tiny-chat",
    "templates": TEMPLATES,
    "targets": RESPONSES,
    "seed": 3,
    "num_steps": 5,
    "overrides": {"n_candidates": 8},
    "loss_overrides": {"prefill-ce": {"temperature": 2.0}},
    "budget": {"limit": 100, "metric": "total_tokens"},
}


def test_yaml_gives_back_what_it_was_made_of(tmp_path):
    config = RecipeConfig.from_mapping(PLAIN)
    path = tmp_path / "run.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert RecipeConfig.load(path) == config
    assert yaml.safe_load(config.to_yaml()) == config.to_mapping()
    assert RecipeConfig.from_mapping(config.to_mapping()).key == config.key


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)


@given(
    templates=st.lists(texts.map(lambda text: text + "{{OPTIMIZED_TRIGGER}}"), min_size=1),
    targets=st.none()
    | st.lists(texts)
    | st.fixed_dictionaries({"true_class_idx": st.lists(st.integers(0, 9))}),
    seed=st.integers(0, 2**63 - 1),
    overrides=st.dictionaries(texts, st.integers() | texts | st.lists(st.integers())),
    num_steps=st.none() | st.integers(1, 10**6),
)
def test_every_configuration_survives_yaml(templates, targets, seed, overrides, num_steps):
    config = RecipeConfig(
        recipe="gcg__zou2023",
        model="zoo:tiny-chat",
        templates=templates,
        targets=targets,
        seed=seed,
        overrides=overrides,
        num_steps=num_steps,
    )
    again = RecipeConfig.from_mapping(yaml.safe_load(config.to_yaml()))
    assert again.key == config.key
    assert again.to_mapping() == config.to_mapping()


def test_a_conversation_is_a_template(tmp_path):
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello {{OPTIMIZED_TRIGGER}}"},
    ]
    config = RecipeConfig.from_mapping({**PLAIN, "templates": [talk], "targets": ["Hi."]})
    assert config.to_arguments()["templates"] == [talk]


def test_one_text_stands_for_a_list_of_one():
    config = RecipeConfig.from_mapping(
        {**PLAIN, "templates": TEMPLATES[0], "targets": RESPONSES[0]}
    )
    assert (config.templates, config.targets) == (TEMPLATES[:1], RESPONSES[:1])


def test_the_key_tells_runs_apart():
    config = RecipeConfig.from_mapping(PLAIN)
    assert re.fullmatch("[0-9a-f]{16}", config.key)
    for changes in ({"seed": 4}, {"overrides": {}}, {"targets": RESPONSES[::-1]}):
        assert RecipeConfig.from_mapping({**PLAIN, **changes}).key != config.key
    for changes in ({"checkpoint_every": 3}, {"initial_trigger": None}):
        assert RecipeConfig.from_mapping({**PLAIN, **changes}).key == config.key


def test_plain_values_become_arguments():
    arguments = RecipeConfig.from_mapping(PLAIN).to_arguments()
    assert arguments["budget"] == Budget(limit=100)
    assert arguments["targets"] == RESPONSES
    assert arguments["proxy_model"] is None


def test_numbers_become_tensors():
    from pellucid.recipes._config import read_plain_targets

    targets = read_plain_targets(
        {
            "target_vectors": [[1, 2], [3, 4]],
            "target_response_toks": [[1, 2, 3], [4]],
            "target_response_logits": [[[0.5, 1]], [[1, 2]]],
            "true_class_idx": [0, 1],
        }
    )
    assert isinstance(targets, Targets)
    assert targets.target_vectors.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert targets.target_vectors.dtype is torch.float32
    assert [len(row) for row in targets.target_response_toks] == [3, 1]
    assert targets.true_class_idx == [0, 1]


WRONG = {
    "unknown key": ({"modle": "x"}, "unknown key of a recipe's configuration 'modle'. Did you"),
    "unknown recipe": ({"recipe": "gcg"}, "unknown recipe 'gcg'"),
    "no model": ({"model": None}, "needs model, got recipe"),
    "a number for a text": ({"model": 3}, "model must be text, got 3"),
    "a text for a number": ({"seed": "3"}, "seed must be a whole number, got '3'"),
    "truth for a number": ({"seed": True}, "seed must be a whole number, got True"),
    "a share for a number": ({"num_steps": 2.5}, "num_steps must be a whole number"),
    "a list for settings": ({"overrides": [1]}, r"overrides must be a mapping, got \[1\]"),
    "negative seed": ({"seed": -1}, "seed must lie between 0 and"),
    "no steps": ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
    "unknown target": (
        {"targets": {"target_class": [1]}},
        "unknown field of Targets 'target_class'. Did you mean 'target_class_idx'",
    ),
    "unknown budget": ({"budget": {"tokens": 1}}, "unknown field of a budget 'tokens'"),
    "no placeholder": ({"templates": ["hello"]}, "0 times"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case):
    changes, message = WRONG[case]
    with pytest.raises(PellucidError, match=message):
        RecipeConfig.from_mapping({**PLAIN, **changes})


def test_targets_that_are_no_numbers_are_named():
    config = RecipeConfig.from_mapping({**PLAIN, "targets": {"target_vectors": [["a"]]}})
    with pytest.raises(ArgumentError, match="targets: target_vectors must be lists of numbers"):
        config.to_arguments()


def test_what_is_no_mapping_is_refused():
    with pytest.raises((ArgumentError, TypeError)):
        RecipeConfig.from_mapping([1, 2])


@pytest.mark.parametrize("text", ["a: [", "\tb"])
def test_a_file_that_is_no_yaml_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ArgumentError, match=r"cannot read .*broken\.yaml"):
        RecipeConfig.load(path)
    with pytest.raises(ArgumentError, match=r"cannot read .*nowhere\.yaml"):
        RecipeConfig.load(tmp_path / "nowhere.yaml")


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("", encoding="utf-8")
    with pytest.raises((ArgumentError, TypeError)):
        RecipeConfig.load(path)


def test_a_template_error_is_one():
    with pytest.raises(TemplateError):
        RecipeConfig.from_mapping({**PLAIN, "templates": ["hello"]})
