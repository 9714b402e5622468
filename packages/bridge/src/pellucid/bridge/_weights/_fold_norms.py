"""Folding a norm's weight and bias into the projections that read it.

With n for what a norm gives before its weight w and bias c, a projection computes (n w + c) W + b,
which is n (w W) + (b + c W): the norm keeps the weight 1 and no bias.
"""

import torch
from torch import Tensor

from pellucid.bridge._architectures._norms import NormFormula
from pellucid.bridge._architectures._trials import Change, double, find_visible, halve
from pellucid.bridge._weights._ground import Ground
from pellucid.bridge._weights._ledger import Ledger, read_exactly
from pellucid.bridge._weights._readers import Reader, ReadNorm, find_readers
from pellucid.bridge._weights._views import has_parameter, read_parameter


class NormFolding:
    """What `fold_ln` does.

    It needs norms before projections, LayerNorm or RMSNorm, whose output nothing else reads.

    Args:
        ground: The model.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._norms = find_readers(ground)
        self._formulas = {one.name: ground.formula(one.norm) for one in self._norms}

    def find_obstacle(self) -> str | None:
        """Return why a norm cannot be folded, None if all can."""
        if not self._norms:
            return "no norm stands before projections: the stream itself is normalised"
        found = (self._find_obstacle(one) for one in self._norms)
        obstacle = next((obstacle for obstacle in found if obstacle is not None), None)
        if obstacle is None:
            # What a norm gives, doubled, and halved again where it is read.
            trials = {one.name: _double(one) for one in self._norms if _has_parameters(one)}
            name = find_visible(self._ground, trials)
            obstacle = name and f"not only projections read what {name} gives"
        return obstacle

    def _find_obstacle(self, one: ReadNorm) -> str | None:
        if not _has_parameters(one):
            return None
        if one.obstacle is not None:
            return one.obstacle
        if self._formulas[one.name] is None:
            return f"{one.name} is a {type(one.norm).__name__}, no LayerNorm and no RMSNorm"
        for reader in one.readers:
            read_parameter(reader.module, reader.weight)
            can_hold = reader.takes_bias or has_parameter(reader.module, reader.bias)
            if has_parameter(one.norm, "bias") and not can_hold:
                where = self._ground.paths.get(reader.module, reader.weight)
                return f"{one.name} has a bias, and {where} can hold none"
        return None

    def gives_bias_to(self, module: object) -> bool:
        """Say whether a projection gets a bias by it that it may not have now."""
        return any(
            has_parameter(one.norm, "bias") and any(r.module is module for r in one.readers)
            for one in self._norms
        )

    def apply(self, ledger: Ledger) -> None:
        """Fold all norms."""
        for one in self._norms:
            formula = self._formulas[one.name]
            if formula is not None:
                self._fold(one, formula, ledger)

    def _fold(self, one: ReadNorm, formula: NormFormula, ledger: Ledger) -> None:
        norm = one.norm
        has_weight, has_bias = has_parameter(norm, "weight"), has_parameter(norm, "bias")
        weight = read_exactly(norm, "weight") + formula.offset if has_weight else None
        bias = read_exactly(norm, "bias") if has_bias else None
        for reader in one.readers:
            _fold_into(reader, weight, bias, ledger, is_centred=formula.is_centred)
        if weight is not None:
            ledger.write(norm, "weight", torch.full_like(weight, 1.0 - formula.offset))
        if bias is not None:
            ledger.write(norm, "bias", torch.zeros_like(bias))


def _has_parameters(one: ReadNorm) -> bool:
    return has_parameter(one.norm, "weight") or has_parameter(one.norm, "bias")


def _double(one: ReadNorm) -> list[Change]:
    takers = dict.fromkeys(reader.module for reader in one.readers)
    return [Change(one.norm, "after", double), *(Change(t, "before", halve) for t in takers)]


def _fold_into(
    reader: Reader, weight: Tensor | None, bias: Tensor | None, ledger: Ledger, *, is_centred: bool
) -> None:
    held = read_exactly(reader.module, reader.weight)
    matrix = held.mT if reader.storage == "out_in" else held
    if bias is not None and bool(bias.any()):
        added = reader.factor * (bias.to(matrix.device) @ matrix)
        if has_parameter(reader.module, reader.bias):
            added = added + read_exactly(reader.module, reader.bias)
        ledger.write(reader.module, reader.bias, added)
    made = matrix if weight is None else weight.to(matrix.device).unsqueeze(-1) * matrix
    if is_centred and not reader.is_gate:
        # What the norm gives has no mean, so that a weight's mean has no effect.
        made = made - made.mean(-2, keepdim=True)
    ledger.write(reader.module, reader.weight, made.mT if reader.storage == "out_in" else made)
