"""The forward process against closed forms, at fixed seeds.

A statistic that is a sum of many draws is held to 4 standard errors; the power of each test is
stated with it.
"""

import itertools
import math

import pytest
import torch

from pellucid.families.mdlm import mask_a_number, mask_each_token
from pellucid.xlm.noise import (
    ContinuousTimeCosine,
    ContinuousTimeGeometric,
    ContinuousTimeLinear,
    ContinuousTimeLogLinear,
    ContinuousTimePolynomial,
)

SCHEDULES = [
    ContinuousTimeLogLinear(),
    ContinuousTimeCosine(),
    ContinuousTimePolynomial(),
    ContinuousTimeGeometric(),
    ContinuousTimeLinear(),
]
named = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: type(one).__name__)
N_ROWS, N_TOKENS = 6000, 8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def everything(rows=N_ROWS, tokens=N_TOKENS):
    return torch.ones(rows, tokens, dtype=torch.bool)


@named
def test_each_token_is_masked_with_the_probability_of_its_time(schedule):
    """48,000 tokens: a probability that is off by 1.5 points is found at 4 standard errors."""
    noise = mask_each_token(everything(), schedule, generator=generator())
    share = -torch.expm1(-noise.total_noise.double())
    for early, late in itertools.pairwise((0.0, 0.25, 0.5, 0.75, 1.0)):
        rows = (share >= early) & (share < late)
        if rows.any():
            expected = N_TOKENS * share[rows]
            error = (expected * (1 - share[rows])).sum().sqrt()
            assert (noise.is_masked[rows].sum() - expected.sum()).abs() < 4 * error + 1e-9


def test_tokens_are_masked_independently_of_each_other():
    """A correlation of 0.04 between any two of 8 tokens is found at 6,000 rows."""
    noise = mask_each_token(everything(), ContinuousTimeLogLinear(), generator=generator())
    share = -torch.expm1(-noise.total_noise)
    surprise = (noise.is_masked.float() - share[:, None]) / (share * (1 - share)).sqrt()[:, None]
    inner = (share > 0.05) & (share < 0.95)
    correlations = surprise[inner].T @ surprise[inner] / inner.sum()
    apart = correlations[~torch.eye(N_TOKENS, dtype=torch.bool)]
    assert apart.abs().max() < 4.5 * inner.sum() ** -0.5


@named
def test_the_weight_of_a_time_is_that_of_the_bound(schedule):
    noise = mask_each_token(everything(64), schedule, generator=generator())
    t = schedule.t_from_total_noise(noise.total_noise)
    weight = schedule.noise_rate(t) / torch.expm1(noise.total_noise)
    torch.testing.assert_close(noise.weight, weight, rtol=2e-3, atol=1e-4)
    if isinstance(schedule, ContinuousTimeLogLinear):
        torch.testing.assert_close(noise.weight, 1 / t, rtol=1e-3, atol=0)


def test_times_are_spread_over_the_rows_in_no_order():
    noise = mask_each_token(everything(64), ContinuousTimeLogLinear(eps=0.0), generator=generator())
    t = ContinuousTimeLogLinear().t_from_total_noise(noise.total_noise)
    strata = (t * 64).floor().long()
    assert strata.sort().values.tolist() == list(range(64))
    assert strata.tolist() != sorted(strata.tolist())


def test_every_number_of_masks_is_as_likely_and_every_place():
    """Numbers are stratified, so exact; a place that is off by 3 points is found."""
    noise = mask_a_number(everything(), generator=generator())
    counts = noise.is_masked.sum(dim=1)
    rates = counts.bincount(minlength=N_TOKENS + 1) / N_ROWS
    expected = torch.full((N_TOKENS,), 1 / N_TOKENS)
    torch.testing.assert_close(rates[1:], expected, rtol=0, atol=2e-3)
    places = noise.is_masked.float().mean(dim=0)
    torch.testing.assert_close(places, torch.full((N_TOKENS,), 4.5 / 8), rtol=0, atol=0.026)
    torch.testing.assert_close(noise.weight, N_TOKENS / counts)


def beta_cdf(x, k, n):
    """Return the chance that at least k of n uniform numbers are below x."""
    terms = [math.comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(k, n + 1)]
    return torch.stack(terms).sum(dim=0)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_share_of_masks_is_that_of_the_moment_of_the_last_one(k):
    """Kolmogorov-Smirnov at level 1e-4: a distribution that is off by 9 points is found."""
    noise = mask_a_number(everything(), generator=generator())
    rows = noise.is_masked.sum(dim=1) == k
    share = (-torch.expm1(-noise.total_noise[rows].double())).sort().values
    n = len(share)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    cdf = beta_cdf(share, k, N_TOKENS)
    distance = torch.maximum((steps[1:] - cdf).max(), (cdf - steps[:-1]).max())
    assert distance < math.sqrt(-math.log(1e-4 / 2) / 2 / n)
    # Which tokens are masked says nothing about it.
    first = noise.is_masked[rows][:, 0]
    if 0 < int(first.sum()) < n:
        shares = -torch.expm1(-noise.total_noise[rows])
        gap = shares[first].mean() - shares[~first].mean()
        error = (shares[first].var() / first.sum() + shares[~first].var() / (~first).sum()).sqrt()
        assert gap.abs() < 4 * error


def cost(is_masked, share):
    """Return what a network might pay for the masks: it depends on all of them, and on the time."""
    n_masked = is_masked.sum(dim=1)
    prices = torch.arange(1, is_masked.shape[1] + 1) / 3
    return (is_masked * prices).sum(dim=1) * (1 + n_masked.sqrt()) * (1 + share)


def exact_bound(n):
    """Return the integral over shares m of dm / m times the expected cost."""
    nodes, weights = (torch.from_numpy(held) for held in numpy_legendre(40))
    total = torch.zeros((), dtype=torch.float64)
    for pattern in itertools.product((False, True), repeat=n):
        k = sum(pattern)
        if k:
            chance = nodes ** (k - 1) * (1 - nodes) ** (n - k)
            masked = torch.tensor([pattern]).expand(len(nodes), -1)
            total += (weights * chance * cost(masked, nodes)).sum()
    return float(total)


def numpy_legendre(n):
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2


@named
def test_both_ways_to_mask_have_the_bound_as_their_mean(schedule):
    """60,000 rows: a mean that is off by 3 % is found; and drawing a number varies less."""
    rows, n = 60_000, 5
    exact, deviations = exact_bound(n), []
    for draw in (mask_each_token, mask_a_number):
        noise = draw(everything(rows, n), schedule, generator=generator(1))
        share = -torch.expm1(-noise.total_noise)
        estimates = (noise.weight * cost(noise.is_masked, share)).double()
        # Times are drawn from eps on, and not all is masked at time 1.
        missing = 3e-3 * exact + 4 * estimates.std() / math.sqrt(rows)
        assert (estimates.mean() - exact).abs() < missing
        deviations.append(float(estimates.std()))
    each, number = deviations
    assert number < each / 2


def test_what_may_not_be_masked_is_not():
    is_eligible = torch.rand(200, 6, generator=generator()) < 0.5
    is_eligible[0], is_eligible[1] = False, True
    for draw in (mask_each_token, mask_a_number):
        noise = draw(is_eligible, ContinuousTimeLogLinear(), generator=generator())
        assert not (noise.is_masked & ~is_eligible).any()
    counts = noise.is_masked.sum(dim=1)
    assert ((counts > 0) == is_eligible.any(dim=1)).all()
    assert noise.weight[0] == 0
    assert noise.weight.isfinite().all()


def test_strata_can_be_those_of_a_row():
    noises = [
        mask_a_number(everything(10), generator=generator(part), stratum=(part, 8))
        for part in range(8)
    ]
    counts = torch.stack([noise.is_masked.sum(dim=1) for noise in noises])
    assert (counts.sort(dim=0).values == torch.arange(1, 9)[:, None]).all()


def test_noise_follows_from_the_generator_alone():
    before = torch.get_rng_state()
    for draw in (mask_each_token, mask_a_number):
        first, again, other = (
            draw(everything(9), ContinuousTimeLogLinear(), generator=generator(seed))
            for seed in (0, 0, 1)
        )
        assert torch.equal(first.is_masked, again.is_masked)
        assert torch.equal(first.total_noise, again.total_noise)
        assert not torch.equal(first.total_noise, other.total_noise)
    assert torch.equal(torch.get_rng_state(), before)
