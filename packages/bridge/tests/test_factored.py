"""FactoredMatrix is the product of its factors in everything that can be asked of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.bridge import FactoredMatrix

SIZES = st.integers(1, 6)


@st.composite
def factored(draw: st.DrawFn) -> FactoredMatrix:
    left, inner, right = draw(SIZES), draw(SIZES), draw(SIZES)
    lead = draw(st.sampled_from([(), (3,), (2, 3), (1, 3)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    a = torch.randn(*lead, left, inner, generator=generator, dtype=torch.float64)
    b = torch.randn(*lead[-1:], inner, right, generator=generator, dtype=torch.float64)
    return FactoredMatrix(a, b)


@given(factored())
@settings(max_examples=60, deadline=None)
def test_it_is_its_product(m: FactoredMatrix) -> None:
    full = m.A @ m.B
    torch.testing.assert_close(m.AB, full)
    assert m.shape == full.shape
    assert m.ndim == full.ndim
    torch.testing.assert_close(m.T.AB, full.mT)
    torch.testing.assert_close((m * 2.5).AB, full * 2.5)
    torch.testing.assert_close((torch.tensor([3.0]).double() * m).AB, full * 3)
    torch.testing.assert_close(m.norm(), torch.linalg.matrix_norm(full))
    torch.testing.assert_close(m.make_even().AB, full)


@given(factored())
@settings(max_examples=60, deadline=None)
def test_svd_takes_it_apart(m: FactoredMatrix) -> None:
    u, s, v = m.svd()
    n = min(m.ldim, m.mdim, m.rdim)
    torch.testing.assert_close(u * s.unsqueeze(-2) @ v.mT, m.AB)
    torch.testing.assert_close(s, torch.linalg.svdvals(m.AB)[..., :n])
    torch.testing.assert_close(u.mT @ u, torch.eye(n).double().expand(*s.shape, n))
    torch.testing.assert_close(u @ m.collapse_l(), m.AB)
    torch.testing.assert_close(m.collapse_r() @ v.mT, m.AB)
    torch.testing.assert_close(m.Vh, m.V)


@given(factored(), SIZES)
@settings(max_examples=60, deadline=None)
def test_products_on_both_sides(m: FactoredMatrix, n: int) -> None:
    right = torch.randn(m.rdim, n).double()
    left = torch.randn(n, m.ldim).double()
    for made, expected in (
        (m @ right, m.AB @ right),
        (left @ m, left @ m.AB),
        (m @ FactoredMatrix(right, left), m.AB @ (right @ left)),
    ):
        assert isinstance(made, FactoredMatrix)
        torch.testing.assert_close(made.AB, expected)
    torch.testing.assert_close(m @ right[:, 0], m.AB @ right[:, 0])
    torch.testing.assert_close(left[0] @ m, left[0] @ m.AB)


def test_a_product_keeps_the_shorter_inner_axis() -> None:
    m = FactoredMatrix(torch.randn(9, 2), torch.randn(2, 7))
    assert (m @ torch.randn(7, 8)).mdim == 2
    assert (torch.randn(8, 9) @ m).mdim == 2
    wide = FactoredMatrix(torch.randn(2, 9), torch.randn(9, 3))
    assert (wide @ torch.randn(3, 8)).mdim == 3
    assert (torch.randn(8, 2) @ wide).mdim == 2


def test_eigenvalues_are_those_of_the_product() -> None:
    m = FactoredMatrix(torch.randn(4, 6, 2), torch.randn(4, 2, 6))
    expected = torch.linalg.eigvals(m.AB).abs().sort(descending=True).values[:, :2]
    torch.testing.assert_close(
        m.eigenvalues.abs().sort(descending=True).values, expected, atol=1e-4, rtol=1e-4
    )


def test_indexing_is_that_of_the_product() -> None:
    m = FactoredMatrix(torch.randn(2, 3, 5, 2), torch.randn(2, 3, 2, 6))
    full = m.AB
    for index in (0, (1, 2), (slice(None), 1), (..., 1, slice(2)), (0, ..., slice(1, 4)), (None,)):
        made = m[index].AB
        torch.testing.assert_close(made, full[index].reshape(made.shape))
    assert m[0, 1, 2, -1].shape == (1, 1)
    torch.testing.assert_close(m[0, 1, 2, -1].AB[0, 0], full[0, 1, 2, -1])
    assert m.get_corner(2).shape == (2, 2, 2, 2)
    torch.testing.assert_close(m.get_corner(2), full[:2, :2, :2, :2])
    assert m.unsqueeze(0).shape == (1, 2, 3, 5, 6)


def test_half_precision_is_computed_in_single() -> None:
    m = FactoredMatrix(torch.randn(4, 2).bfloat16(), torch.randn(2, 4).bfloat16())
    assert m.S.dtype == torch.float32
    assert m.AB.dtype == torch.bfloat16


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(4, 2\)"):
        FactoredMatrix(torch.zeros(2, 3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="do not broadcast"):
        FactoredMatrix(torch.zeros(2, 2, 3), torch.zeros(4, 3, 2))
    m = FactoredMatrix(torch.zeros(2, 3), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="2x4"):
        _ = m.BA
    with pytest.raises(ValueError, match="too many"):
        m[0, 0, 0]
    with pytest.raises(ValueError, match="not factored"):
        m * torch.zeros(2)
    with pytest.raises(ValueError, match="unsqueeze"):
        m.unsqueeze(2)
    with pytest.raises(TypeError):
        m @ "x"
