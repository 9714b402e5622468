"""What adapters a model gets when nobody says which of its modules are to have them."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from pellucid.core import ArgumentError
from pellucid.tptt._config import TpttConfig
from pellucid.tptt._injection import find_targets
from pellucid.tptt._layouts import find_projections


def make_lora_config(
    model: nn.Module,
    rank: int,
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
    adapted: Sequence[str] = (),
    attention: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return what `TpttConfig` takes as its `lora_config`, for a model that is not converted yet.

    Args:
        model: The base model.
        rank: Of each adapter.
        alpha: Its scale, times the rank; twice the rank when omitted.
        dropout: The share of an adapter's inputs that is dropped.
        adapted: The names of the modules with adapters; when omitted, those of the projections of
            the attention modules.
        attention: How the names of attention modules end; those of `TpttConfig` when omitted.

    Raises:
        ArgumentError: (a ValueError) If the rank is below 1.
        NoTargetError: (a ValueError) If the model has no attention modules of these names.
    """
    if rank < 1:
        raise ArgumentError(f"the rank of adapters must be 1 or more, got {rank!r}.")
    names = list(adapted)
    if not names:
        modules = find_targets(model, attention or TpttConfig().target_modules_names).values()
        names = sorted({name for module in modules for name in find_projections(module)})
    return {
        "r": rank,
        "lora_alpha": 2 * rank if alpha is None else alpha,
        "lora_dropout": dropout,
        "target_modules": names,
    }
