"""Gradients of a metric at many activations of one run, which touch no parameter's `grad`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.core import ArgumentError


def take_gradients(
    model: Any,
    tokens: Tensor,
    names: Sequence[str],
    metric: Callable[[Tensor], Any],
    *,
    attention_mask: Tensor | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return activations, and the gradient of a metric with respect to each.

    The gradient at an activation is that of everything after it.

    Args:
        model: A bridge.
        tokens: Ids of shape (batch, pos).
        names: Canonical names.
        metric: Of the logits, one number; it must be differentiable.
        attention_mask: 0 where a position is padding.

    Raises:
        ArgumentError: (a ValueError) If the metric gives no number that depends on the logits.
    """
    values: dict[str, Tensor] = {}
    probes: dict[str, Tensor] = {}

    def probe(value: Tensor, hook: Any) -> Tensor:
        values[hook.name] = value.detach()
        # What is added to an activation has the activation's gradient.
        probes[hook.name] = torch.zeros_like(value, requires_grad=True)
        return value + probes[hook.name]

    masked = {} if attention_mask is None else {"attention_mask": attention_mask}
    with torch.enable_grad():
        hooks = [(name, probe) for name in names]
        result = metric(model.run_with_hooks(tokens, fwd_hooks=hooks, **masked))
        if not isinstance(result, Tensor) or result.numel() != 1 or not result.requires_grad:
            raise ArgumentError(
                "the metric must be one number, a tensor that depends on the logits (no .item()), "
                f"got {result!r}."
            )
        found: Any = torch.autograd.grad(
            result.reshape(()), list(probes.values()), allow_unused=True
        )
    gradients = {
        name: torch.zeros_like(values[name]) if gradient is None else gradient
        for name, gradient in zip(probes, found, strict=True)
    }
    return values, gradients
