"""What single experts of a mixture do, which a mixture's own code hands to nobody.

Experts are a stack of weights, and their module gives the sum of those chosen. Each place of a
position's choice is run by itself through the module, or through its weights as its class says that
they are arranged; the sum over places is what the module gives.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._engine._execution import Scratch, Step
from pellucid.bridge._engine._readings import Reading, Source

Fire = Callable[[Tensor], Tensor]

# What their forward takes: the stream, which experts were chosen, their weights.
_N_INPUTS = 3


def can_part(experts: nn.Module) -> bool:
    """Say whether a module of experts takes a choice and its weights, as one stack of weights."""
    down = dict(experts.named_parameters(recurse=False)).get("down_proj")
    n_inputs = len(inspect.signature(experts.forward).parameters)
    return down is not None and down.ndim == 3 and n_inputs == _N_INPUTS


def has_neurons(experts: Any) -> bool:
    """Say whether a module of experts also says how its weights are arranged."""
    is_gated = getattr(experts, "has_gate", False) and hasattr(experts, "gate_up_proj")
    said = ("is_transposed", "has_bias", "_apply_gate")
    return (
        can_part(experts)
        and is_gated
        and all(hasattr(experts, name) for name in said)
        and not getattr(experts, "has_post_expert_norm", False)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ExpertTap:
    """What each expert chosen for a position makes, of shape (rows, k, width).

    Attributes:
        module: The experts.
        is_neurons: Whether it is their neurons; else it is what they write, weighted.
    """

    module: nn.Module
    is_neurons: bool = False

    def steps(self, fire: Fire) -> Iterable[Step]:
        """Compute it after the experts have run; after a change, their output is the sum."""
        key = (self, "inputs")

        def keep(item: int) -> Callable[[Tensor, Scratch], Tensor]:
            def step(value: Tensor, scratch: Scratch) -> Tensor:
                scratch[(*key, item)] = value
                return value

            return step

        def after(output: Tensor, scratch: Scratch) -> Tensor:
            inputs = tuple(scratch.pop((*key, item)) for item in range(_N_INPUTS))
            seen = self._compute(*inputs)
            made = fire(seen)
            if made is seen:
                return output
            _, index, weights = inputs
            written = self._write(made, index, weights) if self.is_neurons else made
            return written.sum(1).to(output.dtype)

        before = [Step(self.module, "before", keep(item), item) for item in range(_N_INPUTS)]
        return [*before, Step(self.module, "after", after)]

    def reading(self) -> Reading:
        """Compute it from what the experts take."""
        sources = tuple(Source(self.module, "before", item) for item in range(_N_INPUTS))
        return Reading(sources, self._compute, needs_weights=True)

    def _compute(self, stream: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        if self.is_neurons:
            return self._for_each(stream.unsqueeze(1).expand(-1, index.shape[1], -1), index, "up")
        # Past the module's hooks: this is not the pass that they watch.
        parts = [
            self.module.forward(stream, index[:, [place]], weights[:, [place]])
            for place in range(index.shape[1])
        ]
        return torch.stack(parts, dim=1)

    def _write(self, neurons: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        return self._for_each(neurons, index, "down") * weights.unsqueeze(-1)

    def _for_each(self, given: Tensor, index: Tensor, which: str) -> Tensor:
        """Run each expert on the rows and places that have chosen it."""
        experts: Any = self.module
        name = "gate_up_proj" if which == "up" else "down_proj"
        weight, bias = getattr(experts, name), getattr(experts, f"{name}_bias", None)
        found: list[tuple[Tensor, Tensor]] = []
        for expert in index.unique().tolist():
            chosen = index == expert
            if expert >= len(weight):  # A place that is masked out.
                continue
            matrix = weight[expert] if experts.is_transposed else weight[expert].T
            made = given[chosen] @ matrix
            made = made if bias is None else made + bias[expert]
            found.append((chosen, experts._apply_gate(made) if which == "up" else made))
        whole = given.new_zeros(*index.shape, found[0][1].shape[-1])
        for chosen, made in found:
            whole = whole.masked_scatter(chosen.unsqueeze(-1), made.to(whole.dtype))
        return whole
