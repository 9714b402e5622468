import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_samples import (
    assert_gradient_is_that_of_finite_differences,
    assert_low_precision_is_computed_in_float32,
    resolve,
    seeded,
)

from pellucid.core import ArgumentError, ContractError, HeldStates, MessageTargets, ModelOutput
from pellucid.losses import HiddenStateBasedLoss, SteeringActivationLoss

HIDDEN = seeded(2, 3, 5, 4)
DIRECTION = seeded(4, seed=1)
SLICES = {"trigger": slice(1, 3), "input_last_token": slice(4, 5)}


def naive_steering(hidden, direction, loss, slices):
    rows = []
    positions = range(5)
    if loss.slc_name is not None:
        positions = range(slices[loss.slc_name].start, slices[loss.slc_name].stop)
    for sample in hidden:
        values = []
        for layer in range(3) if loss.targeted_layers is None else loss.targeted_layers:
            for pos in positions:
                h = sample[layer, pos]
                value = float(h @ direction) / float(direction.norm())
                if loss.do_cosine_sim:
                    value /= float(h.norm())
                if loss.apply_abs:
                    value = abs(value)
                if loss.apply_square:
                    value = value**2
                values.append(value)
        mean = sum(values) / len(values)
        rows.append(mean if loss.steer_away else -mean)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=4)), ids=str)
@pytest.mark.parametrize("layers", [None, [0], [-1, 1]], ids=str)
@pytest.mark.parametrize("part", ["input_last_token", "trigger", None])
def test_steering_formula(flags, layers, part):
    away, cosine, square, absolute = flags
    loss = SteeringActivationLoss(layers, away, part, cosine, square, absolute)
    expected = naive_steering(HIDDEN, DIRECTION, loss, SLICES)
    torch.testing.assert_close(loss(HIDDEN, DIRECTION, SLICES), expected)


def test_a_unit_step_along_the_direction_lowers_the_loss_by_one():
    loss = SteeringActivationLoss()
    unit = DIRECTION / DIRECTION.norm()
    torch.testing.assert_close(
        loss(HIDDEN + unit, DIRECTION, SLICES), loss(HIDDEN, DIRECTION, SLICES) - 1
    )


@given(st.floats(1e-3, 1e3))
def test_the_length_of_the_direction_has_no_influence(scale):
    loss = SteeringActivationLoss(slc_name=None)
    torch.testing.assert_close(loss(HIDDEN, scale * DIRECTION), loss(HIDDEN, DIRECTION))


def test_cosines_are_bounded_and_a_zero_direction_gives_zero():
    loss = SteeringActivationLoss(slc_name=None, do_cosine_sim=True)
    assert (loss(1e3 * HIDDEN, DIRECTION).abs() <= 1).all()
    assert loss(HIDDEN, torch.zeros(4)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "loss",
    [
        SteeringActivationLoss(),
        SteeringActivationLoss([1], True, "trigger", True, True, True),
    ],
    ids=["plain", "every-flag"],
)
def test_steering_gradient_and_precision(loss):
    def compute(hidden):
        return loss(hidden, DIRECTION, SLICES)

    assert_gradient_is_that_of_finite_differences(compute, HIDDEN)
    assert_low_precision_is_computed_in_float32(compute, HIDDEN)


@pytest.mark.parametrize("layers", [[3], [-4], [0, 7], []])
def test_layers_that_do_not_exist_are_refused(layers):
    with pytest.raises(ArgumentError, match=r"name layers of the 3 there are.*from -3 to 2"):
        SteeringActivationLoss(layers)(HIDDEN, DIRECTION, SLICES)


@pytest.mark.parametrize("slices", [None, {}, {"trigger": slice(1, 3)}])
def test_a_part_that_is_not_there_is_refused(slices):
    with pytest.raises(ArgumentError, match="no part 'input_last_token'"):
        SteeringActivationLoss()(HIDDEN, DIRECTION, slices)


def test_a_direction_of_another_width_is_refused_by_axis_name():
    with pytest.raises(ContractError, match="d_model"):
        SteeringActivationLoss()(HIDDEN, DIRECTION[:3], SLICES)


def test_what_steering_declares():
    loss = SteeringActivationLoss()
    assert isinstance(loss, HiddenStateBasedLoss)
    always = {"full_hidden_states", "target_directions"}
    assert loss.reads().required == always | {"input_slices"}
    assert SteeringActivationLoss(slc_name=None).reads().required == always
    assert SteeringActivationLoss(slc_name=None).reads().optional == {
        "input_slices",
        "held_hidden_states",
        "input_trigger_slots",
    }
    assert [name for name, asked in loss.options().items() if asked] == ["require_hidden_states"]


def test_steering_is_resolved_with_and_without_slices():
    output = ModelOutput(full_hidden_states=HIDDEN)
    targets = MessageTargets(target_directions=DIRECTION)
    everywhere = SteeringActivationLoss(slc_name=None)
    assert torch.equal(
        resolve(everywhere, output, message_targets=targets), everywhere(HIDDEN, DIRECTION)
    )
    last = SteeringActivationLoss()
    assert torch.equal(
        resolve(last, output, message_targets=targets, input_slices=SLICES),
        last(HIDDEN, DIRECTION, SLICES),
    )


@pytest.mark.parametrize("layers", [None, [0], [-1, 1]], ids=str)
@pytest.mark.parametrize("part", ["input_last_token", "trigger", None])
def test_the_part_that_is_read_is_all_it_takes(layers, part):
    loss = SteeringActivationLoss(layers, slc_name=part)
    (selection,) = loss.selections().values()
    held = selection.locate(n_layers=3, n_pos=5, input_slices=SLICES)
    kept = HIDDEN[:, list(held.layers), held.positions]
    n_pos = {"input_last_token": 1, "trigger": 2}.get(part, 5)
    assert kept.shape[1:3] == (len(layers or "abc"), n_pos)
    output = ModelOutput(full_hidden_states=kept, held_hidden_states=held)
    targets = MessageTargets(target_directions=DIRECTION)
    found = resolve(loss, output, message_targets=targets, input_slices=SLICES)
    torch.testing.assert_close(found, loss(HIDDEN, DIRECTION, SLICES))


def test_a_layer_that_is_not_held_is_refused():
    held = HeldStates(n_layers=3, layers=(0, 1), n_pos=5, positions=slice(0, 5))
    with pytest.raises(ArgumentError, match=r"layers \[2\] are not held"):
        SteeringActivationLoss([0, 2])(HIDDEN[:, :2], DIRECTION, SLICES, held_hidden_states=held)
