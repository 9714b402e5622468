"""Writes activations to a cache as they pass."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pellucid.bridge._errors import HookError
from pellucid.bridge._points import HookPoint

_MATRICES = ("hook_pattern", "hook_attn_scores")


class CacheWriter:
    """Keeps activations and gradients by name.

    Args:
        device: Where to; where they are if None.
        pos_slice: Which positions: None, a number, a slice, or (start, stop).
        copies: Whether to keep copies, of a model that writes into activations it has made.
    """

    def __init__(
        self, *, device: torch.device | str | None, pos_slice: Any, copies: bool = False
    ) -> None:
        self.held: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._device = device
        self._copies = copies
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
            axis = -2 if name.endswith(_MATRICES) else 1
            kept = kept[(slice(None),) * (axis % kept.ndim) + (self._positions,)]
        if self._device is not None:
            kept = kept.to(self._device)
        if self._copies:
            kept = kept.clone()
        self.held[name] = kept
        if not kept.is_inference():
            self._versions[name] = kept._version


def join_steps(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return what was kept while generating as if it had been kept in one run.

    Each step holds the positions that it computed; scores and patterns of earlier steps have fewer
    keys, and get the rest as what a mask would make of it.
    """
    if not steps:
        return {}
    return {name: _join(name, [step[name] for step in steps]) for name in steps[0]}


def _join(name: str, parts: list[Tensor]) -> Tensor:
    if name.endswith("hook_rot_k"):
        # Every step attends to all keys so far; the last one to all there are.
        return parts[-1]
    if not name.endswith(_MATRICES):
        return torch.cat(parts, dim=1)
    n_keys = parts[-1].shape[-1]
    lowest = torch.finfo(parts[0].dtype).min if name.endswith("hook_attn_scores") else 0.0
    widened = [pad(part, (0, n_keys - part.shape[-1]), value=lowest) for part in parts]
    return torch.cat(widened, dim=-2)
