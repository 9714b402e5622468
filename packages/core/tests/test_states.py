"""What a loss reads of a model's insides, and what an output holds of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    CombinedLoss,
    ContainerError,
    HeldStates,
    ModelOutput,
    StateSelection,
    TriggerSlot,
)

SLICES = {"trigger": slice(2, 5), "input_last_token": slice(6, 7), "empty": slice(3, 3)}
LAYERS = st.none() | st.lists(st.integers(-4, 3), min_size=1, max_size=4).map(tuple)
PARTS = st.sampled_from([None, "trigger", "input_last_token"])
SELECTIONS = st.builds(StateSelection, layers=LAYERS, part=PARTS, key_part=PARTS)


def locate(selection):
    return selection.locate(n_layers=4, n_pos=7, input_slices=SLICES)


def cut(states, held):
    return states[:, list(held.layers), held.positions]


@given(SELECTIONS)
def test_what_is_held_is_found_where_it_is_said_to_lie(selection):
    states = torch.randn(2, 4, 7, 3)
    held = locate(selection)
    kept = cut(states, held)
    layers = range(4) if selection.layers is None else selection.layers
    span = (0, 7) if selection.part is None else (SLICES[selection.part].start,) * 2
    span = span if selection.part is None else (span[0], SLICES[selection.part].stop)
    found = kept[:, held.find_layers(layers)][:, :, held.find_positions(range(*span))]
    assert torch.equal(found, states[:, list(layers), slice(*span)])


@given(SELECTIONS, SELECTIONS)
def test_a_joined_selection_covers_both(one, other):
    joined = locate(one.join(other))
    for held in (locate(one), locate(other)):
        assert set(held.layers) <= set(joined.layers)
        for mine, all_of_it in (
            (held.positions, joined.positions),
            (held.key_positions, joined.key_positions),
        ):
            assert all_of_it.start <= mine.start <= mine.stop <= all_of_it.stop
    assert one.join(other) == other.join(one)
    assert locate(one.join(one)) == locate(one)


@pytest.mark.parametrize(
    "selection",
    [
        StateSelection(layers=(4,)),
        StateSelection(layers=()),
        StateSelection(part="appended"),
        StateSelection(part="empty"),
    ],
    ids=str,
)
def test_what_does_not_exist_is_left_to_the_loss_to_refuse(selection):
    assert locate(selection) == locate(StateSelection())


def test_what_is_not_held_is_not_found():
    held = locate(StateSelection(layers=(0, -1), part="trigger"))
    assert held.layers == (0, 3)
    with pytest.raises(ArgumentError, match=r"layers \[2\] are not held, only \[0, 3\] are"):
        held.find_layers([-1, 2])
    with pytest.raises(ArgumentError, match=r"positions \[5\] are not held, only 2 to 4 are"):
        held.find_positions([2, 5])
    with pytest.raises(ArgumentError, match=r"positions \[1\] are not held"):
        held.find_positions([1, 2])


def test_keys_have_their_own_positions():
    held = locate(StateSelection(part="input_last_token", key_part="trigger"))
    assert held.find_positions([6]) == [0]
    assert held.find_positions([2, 3, 4], keys=True) == [0, 1, 2]
    with pytest.raises(ArgumentError, match="only 2 to 4 are"):
        held.find_positions([0], keys=True)


def test_a_trigger_in_several_places_is_held_from_the_first_to_the_last():
    slots = [TriggerSlot(slice(1, 2), slice(0, 1)), TriggerSlot(slice(4, 5), slice(0, 1))]
    held = StateSelection(part="trigger").locate(
        n_layers=4, n_pos=7, input_slices=SLICES, trigger_slots=slots
    )
    assert held.positions == slice(1, 5)
    assert held.find_positions([1, 4]) == [0, 3]


class ReadsStates(BaseLoss):
    """Reads hidden states, all or a part."""

    def __init__(self, selection=None):
        self.selection = selection

    def selections(self):
        return {} if self.selection is None else {"full_hidden_states": self.selection}

    def __call__(self, full_hidden_states, held_hidden_states=None):
        return full_hidden_states.flatten(1).mean(dim=1)


class ReadsWhole(BaseLoss):
    """Reads the whole output."""

    def __call__(self, model_output):
        return model_output.full_hidden_states.flatten(1).mean(dim=1)


class ReadsNone(BaseLoss):
    """Reads no states."""

    def __call__(self, full_logits):
        return full_logits.flatten(1).mean(dim=1)


def test_a_combined_loss_selects_what_covers_its_components():
    low, high = StateSelection(layers=(0,), part="trigger"), StateSelection(layers=(2,))
    both = CombinedLoss([ReadsStates(low), CombinedLoss([ReadsStates(high), ReadsNone()])])
    assert both.selections() == {"full_hidden_states": low.join(high)}
    assert ReadsNone().selections() == {}


@pytest.mark.parametrize("whole", [ReadsStates(), ReadsWhole()], ids=["names", "takes the output"])
def test_a_component_that_reads_all_keeps_all(whole):
    combined = CombinedLoss([ReadsStates(StateSelection(layers=(0,))), whole])
    assert combined.selections() == {}


def test_an_output_holds_what_it_says():
    held = HeldStates(n_layers=4, layers=(1, 3), n_pos=7, positions=slice(2, 5))
    states, logits = torch.zeros(2, 2, 3, 4), torch.zeros(2, 7, 9)
    output = ModelOutput(full_logits=logits, full_hidden_states=states, held_hidden_states=held)
    assert output.held_hidden_states.n_held == 3
    with pytest.raises(ContainerError, match="expects 7 positions, as full_logits has, got 3"):
        ModelOutput(full_logits=logits, full_hidden_states=states)
    with pytest.raises(ContainerError, match="has 3 layers and 3 positions, but is said to hold 2"):
        ModelOutput(full_hidden_states=torch.zeros(2, 3, 3, 4), held_hidden_states=held)
    with pytest.raises(ContainerError, match="full_hidden_states is not set"):
        ModelOutput(held_hidden_states=held)
    patterns = torch.zeros(2, 2, 1, 3, 7)
    assert ModelOutput(full_attentions=patterns, held_attentions=held).held_attentions is held
    with pytest.raises(ContainerError, match="4 positions, but"):
        ModelOutput(full_attentions=torch.zeros(2, 2, 1, 4, 7), held_attentions=held)
