"""From a residual stream to logits, as the model itself goes."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.bridge._engine._taps import NormPart, Passing
from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._weights._writers import find_unembedding

# What logits are multiplied or divided by, where a configuration says.
_FACTORS = {"logit_scale": 1, "lm_head_multiplier": 1, "logits_scaling": -1}
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logits_soft_cap")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Readout:
    """What stands between the last stream and the logits.

    Attributes:
        norm: The final norm, if there is one.
        unembed: The projection.
        factor: What its result is multiplied by.
        cap: What keeps logits below a size, if anything: cap * tanh(logits / cap).
    """

    norm: nn.Module | None
    unembed: nn.Module
    factor: float = 1.0
    cap: float | None = None

    def __call__(self, stream: Tensor) -> Tensor:
        """Return logits, past the modules' hooks."""
        normed = stream if self.norm is None else self.norm.forward(stream)
        logits = self.unembed.forward(normed.to(_dtype_of(self.unembed, normed)))
        logits = logits if self.factor == 1.0 else logits * self.factor
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def find_readout(bridge: Any) -> Readout:
    """Return what stands between the last stream and the logits.

    Raises:
        ArchitectureError: (a ValueError) If that is not one norm and one projection.
    """
    find_unembedding(bridge)
    table = bridge.hook_table()
    norm = None
    if "ln_final.hook_in" in table:
        held = table["ln_final.hook_in"].tap
        norm = held.module if isinstance(held, Passing) else None
    elif "ln_final.hook_scale" in table:
        held = table["ln_final.hook_scale"].tap
        norm = held.layer if isinstance(held, NormPart) else None
    tap: Any = table["unembed.hook_in"].tap
    config = _text_config(bridge)
    factor = 1.0
    for name, power in _FACTORS.items():
        value = getattr(config, name, None)
        factor *= float(value) ** power if isinstance(value, (int, float)) else 1.0
    caps = [getattr(config, name, None) for name in _CAPS]
    cap = next((float(c) for c in caps if isinstance(c, (int, float)) and c > 0), None)
    if cap is None and bridge.cfg.output_logits_soft_cap > 0:
        cap = float(bridge.cfg.output_logits_soft_cap)
    return Readout(norm=norm, unembed=tap.module, factor=factor, cap=cap)


def read_out(bridge: Any, stream: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_vocab"]:
    """Return the logits that streams would give if the model ended there.

    Args:
        bridge: The model.
        stream: Of shape (..., d_model).

    Raises:
        ArchitectureError: (a ValueError) If logits are not made of the stream by one norm and one
            projection.
    """
    with torch.no_grad():
        return find_readout(bridge)(stream)


def check_readout(readout: Readout, stream: Tensor, logits: Tensor) -> None:
    """See that a readout makes of the last stream what the model made of it.

    Raises:
        ArchitectureError: (a ValueError) If it does not: the model does more than is known.
    """
    made = readout(stream).float()
    gap = float((made - logits.float()).abs().max())
    tolerance = 1e-3 if logits.dtype in (torch.float32, torch.float64) else 5e-2
    if gap > tolerance * max(1.0, float(logits.float().abs().max())):
        raise ArchitectureError(
            "the final norm and the unembedding do not make the model's logits of its last stream: "
            f"they differ by {gap:.3g}. The model does more with them than is known, or a hook has "
            "changed them."
        )


def _text_config(bridge: Any) -> Any:
    config = bridge.hf_config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _dtype_of(layer: nn.Module, like: Tensor) -> torch.dtype:
    weight = getattr(layer, "weight", None)
    return weight.dtype if weight is not None and weight.is_floating_point() else like.dtype
