import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.optimizers._relaxation import draw_gumbel, pull_back, relax_sample


@given(st.integers(0, 999), st.floats(0.05, 3))
def test_pull_back_is_the_gradient_through_the_softmax(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    noise, weights = (
        torch.randn(3, 2, 5, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    probs = relax_sample(logits, noise, temperature)
    (expected,) = torch.autograd.grad((probs * weights).sum(), logits)
    found = pull_back(probs.detach(), weights, temperature).sum(dim=0)
    torch.testing.assert_close(found, expected)


def test_noise_makes_samples_of_the_distribution():
    logits = torch.tensor([0.0, 1.0, 2.0])
    noise = draw_gumbel((20_000, 3), torch.Generator().manual_seed(0))
    counts = torch.bincount((logits + noise).argmax(dim=-1), minlength=3) / 20_000
    torch.testing.assert_close(counts, logits.softmax(dim=-1), atol=0.02, rtol=0)
    assert noise.isfinite().all()


def test_cold_samples_are_nearly_hard():
    noise = draw_gumbel((50, 1, 4), torch.Generator().manual_seed(1))
    probs = relax_sample(torch.zeros(1, 4), noise, 1e-3)
    assert torch.equal(probs.argmax(dim=-1), noise.argmax(dim=-1))
    assert (probs.max(dim=-1).values > 0.99).float().mean() > 0.9
