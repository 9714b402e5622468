"""Values and checks that the tests of the losses share."""

from collections.abc import Callable

import torch
from torch import Tensor

from pellucid.core import BaseLoss, ModelInput, ModelOutput, resolve_and_compute_loss


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def resolve(loss: BaseLoss, output: ModelOutput, **inputs: object) -> Tensor:
    return resolve_and_compute_loss(output, ModelInput(**inputs), loss)


def assert_gradient_is_that_of_finite_differences(
    compute: Callable[[Tensor], Tensor], values: Tensor
) -> None:
    """The gradient of the summed losses, against central differences in float64."""
    leaf = values.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(compute, (leaf,), eps=1e-6, atol=1e-7, rtol=1e-5)


def assert_low_precision_is_computed_in_float32(
    compute: Callable[[Tensor], Tensor], values: Tensor
) -> None:
    """A bf16 input gives, to the bit, what the same numbers give in float32."""
    low = values.to(torch.bfloat16)
    losses = compute(low)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, compute(low.float()))
