"""What the laws of all conformance suites are written with."""

import functools
import types
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    GradientEmbedAccessMixin,
    GradientTokenAccessMixin,
    InvokeTokenAccessMixin,
    LogitsTokenAccessMixin,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    TextAccessMixin,
    TokenAccessMixin,
)

ACCESS_MIXINS: tuple[type, ...] = (
    TokenAccessMixin,
    InvokeTokenAccessMixin,
    LossTokenAccessMixin,
    LogitsTokenAccessMixin,
    GradientTokenAccessMixin,
    GradientEmbedAccessMixin,
    TextAccessMixin,
    LossTextAccessMixin,
)
"""Every kind of access that a model can grant."""


def expect(holds: bool, otherwise: str) -> None:
    """Fail with a message of its own; assertions in a library are not rewritten by pytest."""
    if not holds:
        raise AssertionError(otherwise)


def expect_close(actual: Any, wanted: Any, otherwise: str, *, tolerance: float) -> None:
    """Fail unless two tensors agree, relative to their size and, near 0, absolutely."""
    actual, wanted = torch.as_tensor(actual), torch.as_tensor(wanted)
    expect(
        actual.shape == wanted.shape,
        f"{otherwise} Shapes differ: {tuple(actual.shape)} and {tuple(wanted.shape)}.",
    )
    left, right = (held.detach().to("cpu", torch.float64) for held in (actual, wanted))
    if not torch.allclose(left, right, rtol=tolerance, atol=tolerance, equal_nan=True):
        gap = (left - right).abs().nan_to_num(torch.inf).max()
        raise AssertionError(f"{otherwise} They differ by up to {float(gap):.3g}.")


def lack(subject: object, what: str) -> NoReturn:
    """Skip a law that does not apply, saying what the subject lacks for it."""
    pytest.skip(f"{type(subject).__name__} {what}")


def require_access(model: object, *mixins: type) -> None:
    """Skip a law unless the model grants every access that it speaks of."""
    for mixin in mixins:
        if not isinstance(model, mixin):
            lack(model, f"lacks {mixin.__name__}")


def access_of(model: object) -> tuple[type, ...]:
    """Return the access mixins that a model has."""
    return tuple(mixin for mixin in ACCESS_MIXINS if isinstance(model, mixin))


def random_ids(
    allowed: Iterable[int], n_candidates: int, n_tokens: int, *, seed: int = 0
) -> Tensor:
    """Return token ids drawn from some, int64, of shape (n_candidates, trigger_pos)."""
    pool = torch.tensor(sorted(allowed), dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    return pool[torch.randint(len(pool), (n_candidates, n_tokens), generator=generator)]


def change_loss(loss: BaseLoss, change: Callable[[Tensor], Tensor]) -> BaseLoss:
    """Return a loss that reads what another one reads, with its values changed."""
    kind: Any = type(loss)

    @functools.wraps(kind.__call__)
    def __call__(self: BaseLoss, *args: Any, **kwargs: Any) -> Tensor:
        return change(kind.__call__(self, *args, **kwargs))

    changed_type = types.new_class(
        f"Changed{kind.__name__}", (kind,), exec_body=lambda body: body.update(__call__=__call__)
    )
    changed = object.__new__(changed_type)
    changed.__dict__.update(vars(loss))
    return changed
