"""Writes activations to a cache as they pass."""

from typing import Any

import torch
from torch import Tensor

from pellucid.bridge._errors import HookError
from pellucid.bridge._points import HookPoint


class CacheWriter:
    """Keeps activations and gradients by name.

    Args:
        device: Where to; where they are if None.
        pos_slice: Which positions: None, a number, a slice, or (start, stop).
    """

    def __init__(self, *, device: torch.device | str | None, pos_slice: Any) -> None:
        self.held: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._device = device
        self._positions = slice(*pos_slice) if isinstance(pos_slice, tuple) else pos_slice

    def keep(self, value: Tensor, hook: HookPoint) -> None:
        """Keep an activation, apart from its graph and in the same memory."""
        self._keep(hook.name, value)

    def keep_gradient(self, gradient: Tensor, hook: HookPoint) -> None:
        """Keep a gradient."""
        self._keep(f"{hook.name}_grad", gradient)

    def check(self) -> None:
        """See that what was kept is still what it was.

        Raises:
            HookError: If the model has since written into an activation's memory.
        """
        changed = [n for n, v in self._versions.items() if self.held[n]._version != v]
        if changed:
            raise HookError(
                f"the model has changed {changed[0]!r} in place after it was cached. Attach a hook "
                "that keeps a clone: fwd_hooks=[(name, lambda value, hook: value.clone())]."
            )

    def _keep(self, name: str, value: Tensor) -> None:
        kept = value.detach()
        if self._positions is not None:
            # Positions are the second axis, or the last but one of scores and patterns.
            axis = -2 if name.endswith(("hook_pattern", "hook_attn_scores")) else 1
            kept = kept[(slice(None),) * (axis % kept.ndim) + (self._positions,)]
        if self._device is not None:
            kept = kept.to(self._device)
        self.held[name] = kept
        if not kept.is_inference():
            self._versions[name] = kept._version
