"""State-space mixers read as attention: how much each position takes from each earlier one."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pellucid.bridge._caches._cached import CachedActivations
from pellucid.bridge._errors import ArchitectureError
from pellucid.core import ArgumentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateSpace:
    """The recurrence of one mixer in one run: state <- decay state + dt B x, y = C state.

    A channel is a feature of the mixer in Mamba, and a head of several features in Mamba 2.

    Attributes:
        log_decay: Logarithm of what is left of each state after a step, ([batch], pos, channel,
            state); the last axis has length 1 in Mamba 2.
        dt: Step sizes, ([batch], pos, channel).
        key: B, ([batch], pos, channel or 1, state); query: C, likewise.
        value: x, ([batch], pos, channel, feature); one feature in Mamba.
    """

    log_decay: Tensor
    dt: Tensor
    key: Tensor
    query: Tensor
    value: Tensor


class StateActivations(CachedActivations):
    """What state spaces do, as matrices over positions."""

    def ssm_layers(self, mixer_type: str | None = None) -> list[int]:
        """Return the layers with a state space whose recurrence is known.

        Args:
            mixer_type: "mamba" or "mamba2"; both if None.
        """
        kinds = [(n, _kind_of(m)) for n in range(self.n_layers) if (m := self._find_mixer(n))]
        return [n for n, kind in kinds if kind and mixer_type in (None, kind)]

    def compute_ssm_effective_attention(
        self, layer: int, include_dt_scaling: bool = True, per_state_coord: bool = False
    ) -> Float[Tensor, "*rest query_pos key_pos"]:
        """Return how much of each position's input a state space reads at each position.

        With step sizes in it, the matrix times the mixer's convolved input, and D times that input,
        is what the recurrence gives (Ali et al. 2024, arXiv:2403.01590).

        Args:
            layer: The block.
            include_dt_scaling: Whether the step size of the position that is read counts as part
                of the matrix, or of what is read.
            per_state_coord: Whether to show each coordinate of the state by itself.

        Returns:
            Of shape ([batch], channel, query_pos, key_pos), or ([batch], channel, state, query_pos,
            key_pos); a channel is a head in Mamba 2. Without padding.

        Raises:
            ArchitectureError: (a ValueError) If the layer has no such mixer.
        """
        space = self._read_space(layer)
        reach = space.log_decay.cumsum(-3)
        # What is left at t of what came in at s: exp(sum of the steps between).
        left = reach.movedim(-3, -1)
        between = left.unsqueeze(-1) - left.unsqueeze(-2)
        n = between.shape[-1]
        later = torch.ones(n, n, dtype=torch.bool, device=between.device).tril()
        decay = between.masked_fill(~later, float("-inf")).exp()
        query = space.query.movedim(-3, -1).unsqueeze(-1)
        key = space.key.movedim(-3, -1).unsqueeze(-2)
        if include_dt_scaling:
            key = key * space.dt.movedim(-2, -1)[..., None, None, :]
        made = decay * query * key
        return made if per_state_coord else made.sum(-3)

    def compute_ssm_state(self, layer: int, time_step: int = -1) -> Float[Tensor, "*rest"]:
        """Return the state of a state space after a position.

        Args:
            layer: The block.
            time_step: The position.

        Returns:
            Of shape ([batch], channel, feature, state); one feature in Mamba.
        """
        space = self._read_space(layer)
        n = space.dt.shape[-2]
        if not -n <= time_step < n:
            raise ArgumentError(f"time_step={time_step!r} lies outside of {n} positions.")
        upto = time_step % n + 1
        reach = space.log_decay[..., :upto, :, :].cumsum(-3)
        left = (reach[..., -1:, :, :] - reach).exp()
        taken = (space.dt.unsqueeze(-1) * space.key)[..., :upto, :, :] * left
        return torch.einsum("...pcn,...pcf->...cfn", taken, space.value[..., :upto, :, :])

    def _find_mixer(self, layer: int) -> Any:
        placed = layer + self.n_layers if layer < 0 else layer
        stack = self.bridge.adapter.stacks[0]
        for mixer in stack.others.get(placed, stack.block).mixers:
            name = f"{stack.name}.{placed}.{mixer.name}"
            if self.bridge.has_component(name):
                return name, self.bridge.get_component(name).original_component
        return None

    def _read_space(self, layer: int) -> StateSpace:
        found = self._find_mixer(layer)
        kind = _kind_of(found) if found else None
        if found is None or kind is None:
            raise ArchitectureError(
                f"block {layer} has no state space of Mamba or Mamba 2; ssm_layers() lists them."
            )
        name, mixer = found
        projected = self[f"{name}.in_proj.hook_out"]
        with torch.no_grad():
            return (_read_first if kind == "mamba" else _read_second)(mixer, projected)


def _kind_of(found: Any) -> str | None:
    module = found[1]
    if not all(hasattr(module, part) for part in ("A_log", "conv1d", "in_proj", "D")):
        return None
    if hasattr(module, "dt_proj") and hasattr(module, "x_proj"):
        return "mamba"
    return "mamba2" if hasattr(module, "dt_bias") and hasattr(module, "n_groups") else None


def _read_first(mixer: Any, projected: Tensor) -> StateSpace:
    width = mixer.in_proj.out_features // 2
    convolved = _convolve(mixer, projected[..., :width])
    rank, n_state = mixer.dt_proj.in_features, mixer.A_log.shape[-1]
    low, key, query = mixer.x_proj.forward(convolved).split([rank, n_state, n_state], dim=-1)
    dt = functional.softplus(mixer.dt_proj.forward(low))
    return StateSpace(
        log_decay=dt.unsqueeze(-1) * -mixer.A_log.exp(),
        dt=dt,
        key=key.unsqueeze(-2),
        query=query.unsqueeze(-2),
        value=convolved.unsqueeze(-1),
    )


def _read_second(mixer: Any, projected: Tensor) -> StateSpace:
    n_heads, width = len(mixer.A_log), mixer.intermediate_size
    shared = mixer.n_groups * mixer.ssm_state_size
    _, inner, steps = projected.split([width, width + 2 * shared, n_heads], dim=-1)
    value, key, query = _convolve(mixer, inner).split([width, shared, shared], dim=-1)
    dt = functional.softplus(steps + mixer.dt_bias).clamp(*mixer.time_step_limit)
    per_group = n_heads // mixer.n_groups

    def spread(part: Tensor) -> Tensor:
        return part.unflatten(-1, (mixer.n_groups, -1)).repeat_interleave(per_group, dim=-2)

    return StateSpace(
        log_decay=(dt * -mixer.A_log.exp()).unsqueeze(-1),
        dt=dt,
        key=spread(key),
        query=spread(query),
        value=value.unflatten(-1, (n_heads, -1)),
    )


def _convolve(mixer: Any, inner: Tensor) -> Tensor:
    batched = inner if inner.ndim == 3 else inner[None]
    made = mixer.conv1d.forward(batched.mT)[..., : batched.shape[1]].mT
    made = functional.silu(made) if mixer.activation in ("silu", "swish") else mixer.act(made)
    return made if inner.ndim == 3 else made[0]
