import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import (
    DEFAULT_INIT_TRIGGER,
    OPTIMIZED_TRIGGER_PLACEHOLDER,
    ArgumentError,
    ContainerError,
    MessageTargets,
    SliceKey,
    Targets,
    set_fields,
)

FULL = Targets(
    target_response_strs=["yes", "no"],
    target_response_toks=[torch.tensor([1, 2]), torch.tensor([3])],
    target_response_logits=[torch.zeros(2, 5), torch.ones(1, 5)],
    target_vectors=torch.arange(6.0).reshape(2, 3),
    target_directions=torch.arange(8.0).reshape(2, 4),
    target_gradient=torch.zeros(2, 7),
    target_class_idx=[0, 1],
    true_class_idx=[1, 0],
    target_hidden_states=torch.zeros(2, 3, 4),
)


def test_the_constants_are_what_users_know():
    assert OPTIMIZED_TRIGGER_PLACEHOLDER == "{{OPTIMIZED_TRIGGER}}"
    assert DEFAULT_INIT_TRIGGER == "! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! !"


def test_plain_strings_serve_as_slice_keys():
    parts = {SliceKey.TRIGGER: slice(1, 2)}
    assert parts["trigger"] == slice(1, 2)
    assert [str(key) for key in SliceKey] == [
        "trigger",
        "input_before",
        "input_after",
        "input_last_token",
        "appended",
    ]


def test_targets_and_message_targets_have_the_same_fields():
    names = [field.name for field in dataclasses.fields(Targets)]
    assert names == [field.name for field in dataclasses.fields(MessageTargets)]
    assert set(set_fields(FULL)) == set(names)


def test_one_message_is_selected_from_every_field():
    first, second = FULL.select_message(0), FULL.select_message(1)
    assert isinstance(first, MessageTargets)
    assert (first.target_response_strs, second.target_response_strs) == ("yes", "no")
    assert second.target_response_toks.tolist() == [3]
    assert second.target_response_logits.shape == (1, 5)
    assert second.target_vectors.tolist() == [3.0, 4.0, 5.0]
    assert (first.target_class_idx, first.true_class_idx) == (0, 1)
    assert first.target_hidden_states.shape == (3, 4)


@pytest.mark.parametrize("index", [2, -1])
def test_a_template_without_target_is_named(index):
    with pytest.raises(ArgumentError, match=rf"hold 2 entries, there is none for template {index}"):
        FULL.select_message(index)


def test_targets_without_fields_serve_any_template():
    assert Targets().n_templates == 0
    assert set_fields(Targets().select_message(7)) == {}


@given(st.lists(st.integers(0, 1), min_size=1, max_size=5))
def test_indices_are_selected_in_their_order(indices):
    chosen = FULL.select_indices(indices)
    assert chosen.n_templates == len(indices)
    for place, index in enumerate(indices):
        got, expected = chosen.select_message(place), FULL.select_message(index)
        assert got.target_response_strs == expected.target_response_strs
        assert torch.equal(got.target_response_toks, expected.target_response_toks)
        assert torch.equal(got.target_vectors, expected.target_vectors)
        assert got.true_class_idx == expected.true_class_idx


def test_selecting_moving_and_replacing_leave_the_original_alone():
    before = set_fields(FULL)
    moved = FULL.to_device("meta")
    FULL.select_indices([1])
    replaced = FULL.replace(target_response_strs=["a", "b"])
    assert moved.target_vectors.device.type == "meta"
    assert {t.device.type for t in moved.target_response_toks} == {"meta"}
    assert moved.target_response_strs == ["yes", "no"]
    assert replaced.target_response_strs == ["a", "b"]
    for name, held in before.items():
        assert getattr(FULL, name) is held
    assert FULL.target_vectors.device.type == "cpu"
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.target_class_idx = None


def test_fields_of_different_lengths_are_refused():
    with pytest.raises(ContainerError, match=r"'target_response_strs': 1, 'target_class_idx': 2"):
        Targets(target_response_strs=["a"], target_class_idx=[1, 2])
    with pytest.raises(ContainerError, match="one entry for each template"):
        Targets(target_vectors=torch.zeros(2, 3), target_class_idx=[1])
    with pytest.raises(ContainerError, match=r"n_templates|one entry for each template"):
        Targets(target_vectors=torch.zeros(2, 3), target_directions=torch.zeros(3, 3))


@pytest.mark.parametrize(
    "toks",
    [
        torch.zeros(2, 3),
        torch.zeros(3, dtype=torch.int64),
        [torch.tensor([1]), torch.tensor([0.5])],
        [torch.tensor([1]), torch.tensor([[2]])],
        [torch.tensor([1]), [2]],
        "yes",
    ],
)
def test_target_tokens_are_ints_of_the_right_rank(toks):
    with pytest.raises(ContainerError, match=r"Targets.target_response_toks expects"):
        Targets(target_response_toks=toks)


def test_ragged_logits_share_a_vocabulary():
    with pytest.raises(ContainerError, match="target_response_logits"):
        Targets(target_response_logits=[torch.zeros(2, 5), torch.zeros(2, 6)])


def test_a_misspelt_target_is_refused_with_the_right_name():
    with pytest.raises(ContainerError, match="Did you mean 'target_response_strs'"):
        Targets(target_response_str=["a"])
