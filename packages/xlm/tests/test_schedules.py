import math

import pytest
import torch

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._schedules import build_lr_schedule


def rates(steps=10, **settings):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = build_lr_schedule(optimizer, **settings)
    found = []
    for _ in range(steps + 1):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_constant_stays():
    assert rates(name="constant") == [2.0] * 11


@pytest.mark.parametrize("name", ["constant_with_warmup", "linear", "cosine"])
def test_all_others_warm_up_in_a_straight_line(name):
    found = rates(name=name, num_warmup_steps=4, num_training_steps=10)
    assert found[:5] == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_linear_ends_at_nothing():
    found = rates(name="linear", num_warmup_steps=2, num_training_steps=10)
    assert found[6] == pytest.approx(1.0)
    assert found[10] == 0.0


def test_cosine_is_a_cosine():
    found = rates(name="cosine", num_training_steps=10)
    expected = [1 + math.cos(math.pi * step / 10) for step in range(11)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("floor", [{"min_lr": 0.5}, {"min_lr_rate": 0.25}])
def test_cosine_can_end_above_nothing(floor):
    found = rates(name="cosine_with_min_lr", num_training_steps=10, **floor)
    assert found[0] == 2.0
    assert found[10] == pytest.approx(0.5)


def test_a_fraction_of_the_run_warms_up():
    found = rates(name="linear", fraction_warmup_steps=0.2, num_training_steps=10)
    assert found[2] == 2.0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"name": "cosin"}, UnknownNameError, "Did you mean 'cosine'"),
        ({"name": "linear"}, ArgumentError, "needs num_training_steps"),
        ({"name": "constant", "num_warmup_steps": 5}, ArgumentError, "use constant_with_warmup"),
        ({"name": "cosine_with_min_lr", "num_training_steps": 9}, ArgumentError, "min_lr"),
        ({"name": "linear", "num_warmup_steps": -1}, ArgumentError, "0 or more"),
        (
            {"name": "linear", "num_warmup_steps": 1, "fraction_warmup_steps": 0.1},
            ArgumentError,
            "not both",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        rates(**settings)
