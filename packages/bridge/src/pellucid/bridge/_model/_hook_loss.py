"""A loss that reads any activation by its name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError, BaseLoss


@dataclasses.dataclass(frozen=True)
class HookLoss(BaseLoss):
    """What an objective makes of one activation of the model.

    The model is a backend made of a bridge, such as `LMHFModel(bridge)`. Only what the activation
    needs is computed, and gradients go through it.

    Attributes:
        hook_name: The activation, by any name that it has, such as "blocks.3.hook_resid_post".
        objective: Takes the activation, of shape (batch, *rest), and returns a number for each
            sample, the lower the better, of shape (batch,). Beside a loss that has the target
            prefilled, the target's positions follow those of the template.
    """

    hook_name: str
    objective: Callable[[Tensor], Tensor]

    def __call__(self, activations: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """Return the objective of each sample.

        Args:
            activations: By name, each of shape (batch, *rest).

        Raises:
            ArgumentError: (a ValueError) If the objective returns anything but a number a sample.
        """
        held = activations[self.hook_name]
        losses: Any = self.objective(held.to(torch.promote_types(held.dtype, torch.float32)))
        if not isinstance(losses, Tensor) or losses.shape != held.shape[:1]:
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ArgumentError(
                f"the objective of {self.hook_name!r} must return one number for each of "
                f"{len(held)} samples, got {got!r}."
            )
        return losses

    def activation_names(self) -> frozenset[str]:
        """Return the one activation that it reads."""
        return frozenset({self.hook_name})
