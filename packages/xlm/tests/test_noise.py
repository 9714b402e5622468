import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pellucid.core import ArgumentError, RequirementError
from pellucid.xlm.contracts import NoiseSchedule
from pellucid.xlm.noise import (
    ContinuousTimeCosine,
    ContinuousTimeGeometric,
    ContinuousTimeLinear,
    ContinuousTimeLogLinear,
    ContinuousTimePolynomial,
    DummyNoiseSchedule,
)

TIMES = st.lists(st.floats(min_value=0, max_value=1, width=32), min_size=1, max_size=8)
SIGMAS = st.floats(min_value=0.1, max_value=20)
BY_SHARE = [ContinuousTimeLogLinear, ContinuousTimeCosine, ContinuousTimePolynomial]
FROM_NOTHING = [*BY_SHARE, ContinuousTimeLinear]
EVERY = [*FROM_NOTHING, ContinuousTimeGeometric]
KINDS = st.sampled_from(EVERY)


@given(kind=KINDS, sigma=SIGMAS, times=TIMES)
def test_a_time_follows_from_its_total_noise(kind, sigma, times) -> None:
    schedule, t = kind(sigma), torch.tensor(times, dtype=torch.float64)
    found = schedule.t_from_total_noise(schedule.total_noise(t))
    # Where noise stands still, at time 1 of the cosine and time 0 of the polynomial, a time is only
    # known up to the root of what a number is exact to.
    is_still = kind in (ContinuousTimeCosine, ContinuousTimePolynomial)
    torch.testing.assert_close(found, t, atol=1e-6 if is_still else 1e-9, rtol=0)


@given(
    kind=st.sampled_from([ContinuousTimeLogLinear, ContinuousTimeGeometric]),
    sigma=SIGMAS,
    times=TIMES,
)
def test_a_time_follows_from_its_rate(kind, sigma, times) -> None:
    schedule, t = kind(sigma), torch.tensor(times, dtype=torch.float64)
    found = schedule.t_from_noise_rate(schedule.noise_rate(t))
    torch.testing.assert_close(found, t, atol=1e-9, rtol=0)


@given(kind=KINDS, sigma=SIGMAS, times=TIMES)
def test_the_rate_is_the_derivative_of_the_total(kind, sigma, times) -> None:
    schedule = kind(sigma)
    t = torch.tensor(times, dtype=torch.float64, requires_grad=True)
    rate, total = schedule(t)
    assert rate.shape == total.shape == t.shape
    (derivative,) = torch.autograd.grad(total.sum(), t)
    torch.testing.assert_close(rate.detach(), derivative, rtol=1e-7, atol=1e-9)
    assert (rate >= 0).all()
    assert (rate[(t > 0.01) & (t < 0.99)] > 0).all()


@pytest.mark.parametrize("kind", FROM_NOTHING)
def test_noise_grows_from_nothing_to_the_most(kind) -> None:
    schedule = kind(4.0)
    total = schedule.total_noise(torch.linspace(0, 1, 50))
    assert total[0] == 0
    assert float(total[-1]) == pytest.approx(4.0, abs=1e-5)
    assert (total.diff() > 0).all()


@pytest.mark.parametrize("sigma", [4.0, 9.2, 20.0])
def test_the_share_of_masked_tokens_is_in_proportion_to_time(sigma) -> None:
    """In single precision too, where the least share of clean tokens is lost in 1 - a t."""
    schedule, t = ContinuousTimeLogLinear(sigma), torch.linspace(0, 1, 100)
    rate, total = schedule(t)
    assert torch.isfinite(rate).all()
    masked = -torch.expm1(-total)
    torch.testing.assert_close(masked, t * -math.expm1(-sigma), atol=1e-6, rtol=0)
    # The weight of the likelihood bound is then 1 / t, whatever sigma is.
    weight = rate / torch.expm1(total)
    torch.testing.assert_close(weight[1:], 1 / t[1:], rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("schedule", "share"),
    [
        (ContinuousTimeCosine(4.0), lambda t: math.sin(math.pi * t / 2)),
        (ContinuousTimePolynomial(4.0, exponent=3.0), lambda t: t**3),
        (ContinuousTimePolynomial(4.0, exponent=1.0), lambda t: t),
    ],
)
def test_the_share_of_masked_tokens_is_the_stated_one(schedule, share) -> None:
    times = [0.0, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-4, 1.0]
    expected = torch.tensor([share(t) * -math.expm1(-4.0) for t in times])
    found = -torch.expm1(-schedule.total_noise(torch.tensor(times)))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_geometric_noise_grows_by_equal_factors() -> None:
    schedule = ContinuousTimeGeometric(8.0, sigma_min=0.5)
    total = schedule.total_noise(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(total, torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0]))


@pytest.mark.parametrize("schedule", [ContinuousTimeCosine(), ContinuousTimePolynomial()])
def test_a_rate_without_an_inverse_is_refused(schedule) -> None:
    with pytest.raises(RequirementError, match="no closed form for ContinuousTime"):
        schedule.t_from_noise_rate(torch.ones(1))


@pytest.mark.parametrize("kind", EVERY)
def test_a_batch_covers_all_times(kind) -> None:
    generator = torch.Generator().manual_seed(0)
    t = kind(4.0, eps=0.01).sample_t(16, generator=generator)
    strata = ((t - 0.01) / 0.99 * 16).floor()
    assert strata.tolist() == list(range(16))
    free = kind(4.0, eps=0.01, antithetic_sampling=False)
    drawn = free.sample_t(4_000, generator=generator)
    assert float(drawn.min()) >= 0.01
    assert float(drawn.max()) <= 1
    assert float(drawn.mean()) == pytest.approx(0.505, abs=0.02)


def test_times_follow_from_the_generator_alone() -> None:
    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(7)
        return ContinuousTimeLogLinear().sample_t(5, generator=generator)

    first, state = draw(), torch.get_rng_state()
    assert torch.equal(draw(), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_linear_noise_may_begin_above_nothing() -> None:
    schedule = ContinuousTimeLinear(3.0, sigma_min=1.0)
    t = torch.tensor([0.0, 0.5, 1.0])
    rate, total = schedule(t)
    assert total.tolist() == [1.0, 2.0, 3.0]
    assert rate.tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(RequirementError, match="all times of the linear schedule have one"):
        schedule.t_from_noise_rate(rate)


def test_the_dummy_answers_nothing() -> None:
    dummy, t = DummyNoiseSchedule(), torch.zeros(2)
    assert isinstance(dummy, NoiseSchedule)
    for ask in (
        dummy,
        dummy.noise_rate,
        dummy.total_noise,
        dummy.t_from_noise_rate,
        dummy.t_from_total_noise,
    ):
        with pytest.raises(RequirementError, match="asked of the dummy noise schedule"):
            ask(t)
    with pytest.raises(RequirementError, match="sample_t was asked of the dummy"):
        dummy.sample_t(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContinuousTimeLogLinear(0.0), "sigma_max is 0.0"),
        (lambda: ContinuousTimeLogLinear(math.inf), "sigma_max is inf"),
        (lambda: ContinuousTimeLinear(1.0, eps=1.0), "eps is 1.0"),
        (lambda: ContinuousTimeLinear(1.0, sigma_min=1.0), "sigma_min is 1.0"),
        (lambda: ContinuousTimeGeometric(1.0, sigma_min=0.0), "sigma_min is 0.0"),
        (lambda: ContinuousTimePolynomial(exponent=0.5), "exponent is 0.5"),
        (lambda: ContinuousTimeLinear().sample_t(0), "batch_size is 0"),
    ],
)
def test_schedules_that_cannot_be_are_refused(make, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()
