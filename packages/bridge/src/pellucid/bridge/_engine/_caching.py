"""Writes activations to a cache as they pass."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pellucid.bridge._engine._notes import NotedTensors, NotePlan, Notes, written_into
from pellucid.bridge._names._points import HookPoint
from pellucid.core import ArgumentError

_MATRICES = ("hook_pattern", "hook_attn_scores")
_STATE = "hook_ssm_state"
# What each step of generation holds for all positions so far.
_CUMULATIVE = ("hook_rot_k", _STATE)


class CacheWriter:
    """Keeps activations and gradients by name.

    Args:
        device: Where to; where they are if None.
        pos_slice: Which positions: None, a number, a slice, (start, stop), or a list of numbers.
        held: Where to write; a new dictionary if None.
        drops_batch: Whether to drop the axis of a batch of one.
        copies: Whether to keep copies: for models that write into what they have computed.

    Raises:
        ArgumentError: (a ValueError) If `pos_slice` is none of these.
    """

    is_quiet = True

    def __init__(
        self,
        *,
        device: torch.device | str | None = None,
        pos_slice: Any = None,
        held: dict[str, Tensor] | None = None,
        drops_batch: bool = False,
        copies: bool = False,
    ) -> None:
        self.held: dict[str, Tensor] = {} if held is None else held
        self._versions: list[tuple[str, Tensor, int]] = []
        self._runs: list[tuple[NotePlan, Notes]] = []
        self._device = device
        self._positions = _read_positions(pos_slice)
        self._drops_batch = drops_batch
        self._copies = copies
        # All that has to be done to most tensors is to detach them.
        self._is_plain = device is None and self._positions is None and not (drops_batch or copies)

    def record(self, name: str, value: Tensor) -> Tensor:
        """Keep an activation by name; returns it as it is."""
        self._keep(name, value)
        return value

    def keep(self, value: Tensor, hook: HookPoint) -> None:
        """Keep an activation, apart from its graph and in the same memory."""
        self._keep(hook.name, value)

    def keep_gradient(self, gradient: Tensor, hook: HookPoint) -> None:
        """Keep a gradient."""
        self._keep(f"{hook.name}_grad", gradient)

    @property
    def takes_notes(self) -> bool:
        """Whether activations are kept just as they are."""
        return self._is_plain

    def take_notes(self, plan: NotePlan) -> Notes:
        """Return the empty notes of a run by such a plan; what they hold at its end is kept."""
        notes = plan.start()
        self._runs.append((plan, notes))
        return notes

    def finish(self) -> MutableMapping[str, Tensor]:
        """Return what was kept, after seeing that it still is what it was.

        Raises:
            HookError: If the model has since written into an activation's memory.
        """
        for name, kept, version in self._versions:
            if kept._version != version:
                raise written_into(name)
        noted = [NotedTensors(plan, notes) for plan, notes in self._runs]
        if len(noted) == 1 and not self.held:
            return noted[0]
        for one in noted:
            self.held.update(one)
        return self.held

    def _keep(self, name: str, value: Tensor) -> None:
        kept = value.detach() if value.requires_grad else value
        if not self._is_plain:
            kept = self._reduce(name, kept)
        self.held[name] = kept
        if not kept.is_inference():
            self._versions.append((name, kept, kept._version))

    def _reduce(self, name: str, kept: Tensor) -> Tensor:
        if self._positions is not None and not name.removesuffix("_grad").endswith(_STATE):
            # Positions are the second axis, or the last but one of scores and patterns.
            axis = -2 if name.removesuffix("_grad").endswith(_MATRICES) else 1
            kept = kept[(slice(None),) * (axis % kept.ndim) + (self._positions,)]
        if self._drops_batch and len(kept) == 1:
            kept = kept[0]
        if self._device is not None:
            kept = kept.to(self._device)
        return kept.clone() if self._copies else kept


def _read_positions(given: Any) -> Any:
    if given is None or isinstance(given, (int, slice)):
        return given
    if isinstance(given, tuple) and all(one is None or isinstance(one, int) for one in given):
        return slice(*given)
    if isinstance(given, Tensor) and not given.is_floating_point():
        return given
    if isinstance(given, list) and all(isinstance(one, int) for one in given):
        return given
    raise ArgumentError(
        "pos_slice must be a position, a slice, (start, stop), or a list of positions, got "
        f"{given!r}."
    )


def join_steps(steps: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return what was kept while generating as if it had been kept in one run.

    Each step holds the positions that it computed; scores and patterns of earlier steps have fewer
    keys, and get the rest as what a mask would make of it. What only the first step computes, an
    encoder say, is as that step left it.
    """
    names = dict.fromkeys(name for step in steps for name in step)
    return {name: _join(name, [step[name] for step in steps if name in step]) for name in names}


def _join(name: str, parts: list[Tensor]) -> Tensor:
    if len(parts) == 1 or name.endswith(_CUMULATIVE):
        # Every step attends to all keys so far; the last one to all there are.
        return parts[-1]
    if not name.endswith(_MATRICES):
        return torch.cat(parts, dim=1)
    n_keys = parts[-1].shape[-1]
    lowest = torch.finfo(parts[0].dtype).min if name.endswith("hook_attn_scores") else 0.0
    widened = [pad(part, (0, n_keys - part.shape[-1]), value=lowest) for part in parts]
    return torch.cat(widened, dim=-2)
