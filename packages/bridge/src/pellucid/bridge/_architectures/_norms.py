"""What a normalisation layer computes, found out by trying it."""

import dataclasses
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# Relative to the largest entry; a layer in bfloat16 rounds to 8 bits.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
_EPSILONS = ("variance_epsilon", "eps", "epsilon", "norm_eps")
_FOUND: "WeakKeyDictionary[nn.Module, NormFormula]" = WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class NormFormula:
    """How a layer normalises its last axis.

    Attributes:
        is_centred: Whether it takes the mean away first: LayerNorm, not RMSNorm.
        offset: What is added to its weight: 1 in Gemma, else 0.
        eps: What is added to the variance.
    """

    is_centred: bool
    offset: float
    eps: float

    def centre(self, x: Tensor) -> Tensor:
        """Return the input in float32 at least, without its mean where the layer removes it."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x - x.mean(-1, keepdim=True) if self.is_centred else x

    def scale(self, x: Tensor) -> Tensor:
        """Return what the layer divides by, of shape (..., 1)."""
        return (self.centre(x).square().mean(-1, keepdim=True) + self.eps).sqrt()

    def finish(self, normalized: Tensor, layer: nn.Module, dtype: torch.dtype) -> Tensor:
        """Return the layer's output for a normalised input."""
        made = normalized
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if weight is not None:
            made = made * (weight.to(made.dtype) + self.offset)
        if bias is not None:
            made = made + bias.to(made.dtype)
        return made.to(dtype)


def find_formula(layer: nn.Module, width: int) -> NormFormula | None:
    """Return what a layer computes, or None if it is none of the formulas known.

    Args:
        layer: A normalisation layer.
        width: Of its input's last axis.
    """
    eps = next((float(v) for v in _read_epsilons(layer)), 1e-5)
    found = _FOUND.get(layer)
    if found is None or found.eps != eps:
        found = _try_formulas(layer, width, eps)
        if found is not None:
            _FOUND[layer] = found
    return found


def _try_formulas(layer: nn.Module, width: int, eps: float) -> NormFormula | None:
    weight = next(layer.parameters(), None)
    if weight is None:
        device, dtype = torch.device("cpu"), torch.float32
    elif weight.device.type == "meta" or weight.ndim != 1:
        return None
    else:
        device, dtype, width = weight.device, weight.dtype, len(weight)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(2, 3, width, generator=generator).add_(0.5).to(device, dtype)
    with torch.no_grad():
        # Past the layer's hooks: nobody is to see the probe.
        made = layer.forward(probe)
        # Where weights are zero, nothing tells the formulas apart but what torch calls the layer.
        for is_centred in (True,) if isinstance(layer, nn.LayerNorm) else (False, True):
            for offset in (0.0, 1.0):
                formula = NormFormula(is_centred=is_centred, offset=offset, eps=eps)
                tried = formula.finish(formula.centre(probe) / formula.scale(probe), layer, dtype)
                gap = (tried.float() - made.float()).abs().max()
                if gap <= _TOLERANCE.get(dtype, 1e-4) * made.float().abs().max().clamp(min=1):
                    return formula
    return None


def _read_epsilons(layer: Any) -> list[Any]:
    return [held for name in _EPSILONS if isinstance(held := getattr(layer, name, None), float)]
