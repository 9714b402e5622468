"""Folding value biases into attention's output, and choosing bases of a head's inner axes.

A pattern's rows sum to 1, so that every position gathers the whole of a value bias: b_V W_O is a
part of the output's bias.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pellucid.bridge._architectures._claims import is_pattern_of
from pellucid.bridge._weights._fold_norms import NormFolding
from pellucid.bridge._weights._ground import Ground
from pellucid.bridge._weights._ledger import Ledger, read_exactly
from pellucid.bridge._weights._table import WeightSpec
from pellucid.bridge._weights._views import WeightView, has_parameter

_TOLERANCE = 1e-3


class ValueBiasFolding:
    """What `fold_value_biases` does.

    It needs heads that gather values by a pattern whose rows sum to 1, and hand them to the output
    projection as they are.

    Args:
        ground: The model.
        norms: The folding of norms that comes before, which may add value biases.
    """

    def __init__(self, ground: Ground, norms: NormFolding | None) -> None:
        self._ground = ground
        self._norms = norms

    def find_obstacle(self, *, everywhere: bool = False) -> str | None:
        """Return why a block's value bias is not a part of the output's, None if all are.

        Args:
            everywhere: Whether blocks without value biases count too.
        """
        owners = [owner for owner in self.owners() if everywhere or self._will_have(owner)]
        for owner in owners:
            attention = self._ground.bridge.get_component(owner).original_component
            if getattr(attention, "sinks", None) is not None:
                return f"{owner} has attention sinks, which take a part of every row"
        shorts = ("v.hook_out", "hook_pattern", "o.hook_in")
        names = [f"{owner}.{short}" for owner in owners for short in shorts]
        held = self._ground.read(names) if names else {}
        found = (_check(held, owner) for owner in owners)
        return next((obstacle for obstacle in found if obstacle is not None), None)

    def owners(self) -> Iterator[str]:
        """Yield the attentions of all blocks, such as "blocks.0.attn"."""
        for name in self._ground.weights:
            owner, _, short = name.rpartition(".")
            if short == "W_V" and f"{owner}.W_O" in self._ground.weights:
                yield owner

    def _will_have(self, owner: str) -> bool:
        weights = self._ground.weights
        if f"{owner}.b_V" in weights:
            return True
        module = view_of(weights, f"{owner}.W_V").module
        return self._norms is not None and self._norms.gives_bias_to(module)

    def apply(self, ledger: Ledger) -> None:
        """Fold the value biases of all blocks."""
        for owner in self.owners():
            if f"{owner}.b_V" in self._ground.weights:
                self._fold(owner, ledger)

    def _fold(self, owner: str, ledger: Ledger) -> None:
        weights = self._ground.weights
        value, output = view_of(weights, f"{owner}.b_V"), view_of(weights, f"{owner}.W_O")
        whole = read_exactly(value.module, value.parameter)
        bias = value.read(whole)
        if not bool(bias.any()):
            return
        matrix = output.read(read_exactly(output.module, output.parameter))
        n_shared = matrix.shape[0] // bias.shape[0]
        heads = bias.repeat_interleave(n_shared, dim=0).to(matrix.device)
        added = torch.einsum("hd,hdo->o", heads, matrix)
        if has_parameter(output.module, "bias"):
            added = added + read_exactly(output.module, "bias")
        ledger.write(output.module, "bias", added)
        ledger.write(value.module, value.parameter, value.place(whole, torch.zeros_like(bias)))


def view_of(weights: Mapping[str, WeightSpec], name: str) -> WeightView:
    """Return where a weight stands that is a part of one parameter."""
    source = weights[name].source
    assert isinstance(source, WeightView)
    return source


def _check(held: dict[str, Tensor], owner: str) -> str | None:
    pattern = held.get(f"{owner}.hook_pattern")
    if pattern is None or f"{owner}.v.hook_out" not in held:
        return f"the pattern and values of {owner} cannot be read"
    if not bool(((pattern.float().sum(-1) - 1).abs() < _TOLERANCE).all()):
        return f"the rows of {owner}'s pattern do not sum to 1"
    if not is_pattern_of(held, f"{owner}."):
        return f"what {owner} gathers is not pattern times value"
    return None
