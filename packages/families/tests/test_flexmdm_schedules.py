import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError
from pellucid.families.flexmdm import (
    CosineSchedule,
    FlexMDMNoiseSchedule,
    GeometricSchedule,
    InterpolantSchedule,
    LinearSchedule,
    PolynomialSchedule,
    SinSchedule,
)
from pellucid.families.flexmdm._bound import CutSchedule
from pellucid.families.flexmdm.noise_flexmdm import as_flexmdm_schedule
from pellucid.xlm.noise import ContinuousTimeLogLinear, DummyNoiseSchedule

SCHEDULES = {
    "linear": LinearSchedule(),
    "geometric": GeometricSchedule(0.01, 20.0),
    "steep geometric": GeometricSchedule(1e-4, 3.0),
    "sin": SinSchedule(),
    "cosine": CosineSchedule(),
    "polynomial": PolynomialSchedule(2.0),
    "another polynomial": PolynomialSchedule(3.5),
    "cut": CutSchedule(SinSchedule(), 0.9),
}
WHOLE = [name for name in SCHEDULES if name != "cut"]
TIMES = st.floats(1e-3, 0.999)


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


@pytest.mark.parametrize("name", WHOLE)
def test_it_runs_from_nothing_to_all(name):
    schedule = SCHEDULES[name]
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    passed = schedule.at(t)
    torch.testing.assert_close(passed[[0, -1]], tensor(0, 1), rtol=0, atol=1e-12)
    assert (passed.diff() > 0).all()


@given(name=st.sampled_from(list(SCHEDULES)), at=TIMES)
def test_density_and_hazard_follow_from_it(name, at):
    schedule, step = SCHEDULES[name], 1e-5
    at = at * getattr(schedule, "end", 1.0)
    slope = (schedule.at(tensor(at + step)) - schedule.at(tensor(at - step))) / (2 * step)
    density = schedule.derivative_at(tensor(at))
    torch.testing.assert_close(density, slope, rtol=1e-3, atol=1e-6)
    hazard = schedule.rate_scale_factor(tensor(at))
    torch.testing.assert_close(hazard, density / (1 - schedule.at(tensor(at))), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("left", [1e-2, 1e-4, 1e-6])
def test_the_hazard_is_right_next_to_the_end(name, left):
    # 1 - at(1 - x) is x^p to first order, and the hazard p / x: 2 / x for the sine, else 1 / x.
    power = 2 if name == "sin" else 1
    exact = SCHEDULES[name].rate_scale_factor(tensor(1 - left).double())
    torch.testing.assert_close(exact * left, tensor(power), rtol=20 * left + 1e-9, atol=0)
    # In single precision 1 - t itself is rounded to six parts in 1e8.
    single = SCHEDULES[name].rate_scale_factor(torch.tensor([1 - left]))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-7 / left + 1e-3, atol=0)


@given(name=st.sampled_from(list(SCHEDULES)), passed=st.floats(0, 1))
def test_the_inverse_undoes_it(name, passed):
    schedule = SCHEDULES[name]
    t = schedule.inv(tensor(passed))
    assert 0 <= t <= 1
    torch.testing.assert_close(schedule.at(t), tensor(passed), rtol=0, atol=1e-7)


@given(name=st.sampled_from(list(SCHEDULES)), times=st.lists(TIMES, min_size=3, max_size=3))
def test_what_survives_two_steps_survives_both(name, times):
    schedule = SCHEDULES[name]
    first, second, third = (t * getattr(schedule, "end", 1.0) for t in map(tensor, sorted(times)))
    at_once = 1 - schedule.hazard_within(first, third)
    in_two = (1 - schedule.hazard_within(first, second)) * (
        1 - schedule.hazard_within(second, third)
    )
    torch.testing.assert_close(at_once, in_two, rtol=0, atol=1e-9)
    nearly = first + 1e-7
    torch.testing.assert_close(
        schedule.hazard_within(first, nearly) / 1e-7,
        schedule.rate_scale_factor(first),
        rtol=1e-2,
        atol=1e-6,
    )
    end = tensor(getattr(schedule, "end", 1.0))
    torch.testing.assert_close(schedule.hazard_within(first, end), tensor(1), rtol=0, atol=1e-9)


def test_at_the_end_all_has_come():
    one = tensor(1)
    assert LinearSchedule().hazard_within(one, one) == 1


N = 20_000
# The largest distance of an empirical distribution of N draws from its own exceeds this in one case
# of 1e4; a distribution that is off by 0.03 anywhere is found in more than 99 of 100 cases.
KOLMOGOROV = math.sqrt(math.log(2e4) / 2 / N)


def distance(drawn, law):
    """Return the greatest distance of an empirical distribution from a law."""
    law = law(drawn.double().sort().values)
    ranks = torch.arange(len(law) + 1) / len(law)
    return max((law - ranks[:-1]).max(), (ranks[1:] - law).max())


def test_times_are_drawn_from_it(schedule):
    before = torch.get_rng_state()
    drawn, again = (
        schedule.sample((N,), "cpu", generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(drawn, again)
    assert torch.equal(torch.get_rng_state(), before)
    assert distance(drawn, schedule.at) < KOLMOGOROV


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.7])
def test_times_after_a_threshold_are_drawn_from_the_rest(schedule, threshold):
    start = tensor(threshold * getattr(schedule, "end", 1.0))
    drawn = schedule.sample_truncated(
        start, (N,), "cpu", generator=torch.Generator().manual_seed(4)
    )
    assert (drawn >= start).all()
    assert distance(drawn, lambda t: schedule.hazard_within(start.expand_as(t), t)) < KOLMOGOROV


def test_no_time_is_before_its_threshold(schedule):
    thresholds = schedule.sample((N,), generator=torch.Generator().manual_seed(0))
    drawn = schedule.sample_truncated(thresholds, generator=torch.Generator().manual_seed(1))
    assert (drawn >= thresholds).all()
    assert (drawn <= 1).all()
    one = schedule.sample_truncated(torch.ones(3) * getattr(schedule, "end", 1.0))
    assert (one >= getattr(schedule, "end", 1.0) - 1e-6).all()


def test_a_cut_schedule_has_the_shape_of_the_whole():
    whole, cut = SinSchedule(), CutSchedule(SinSchedule(), 0.6)
    t = torch.linspace(0, 0.6, 7, dtype=torch.float64)
    torch.testing.assert_close(cut.at(t), whole.at(t) / whole.at(tensor(0.6)))
    assert cut.at(tensor(0.6)) == 1


def test_the_bounds_of_the_geometric_schedule_have_no_order():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(GeometricSchedule(5, 0.1).at(t), GeometricSchedule(0.1, 5).at(t))


def test_a_bundle_is_linear_unless_told_otherwise():
    bundle = FlexMDMNoiseSchedule(unmasking_noise_schedule=SinSchedule())
    assert isinstance(bundle.insertion_noise_schedule, LinearSchedule)
    assert isinstance(bundle.unmasking_noise_schedule, SinSchedule)
    assert as_flexmdm_schedule(bundle) is bundle
    assert isinstance(as_flexmdm_schedule(None).unmasking_noise_schedule, InterpolantSchedule)


def test_bad_input_is_named():
    for low, high in ((0.0, 1.0), (2.0, 2.0), (-1.0, 1.0), (1.0, math.inf)):
        with pytest.raises(ArgumentError, match="make no schedule; give two different"):
            GeometricSchedule(low, high)
    with pytest.raises(ArgumentError, match=r"exp is 0\.5; give a number of at least 1"):
        PolynomialSchedule(0.5)
    for other in (DummyNoiseSchedule(), ContinuousTimeLogLinear()):
        with pytest.raises(ArgumentError, match="choose noise_schedule=flexmdm_linear"):
            as_flexmdm_schedule(other)
