"""Weights of four bits, which bitsandbytes lays out anew for inference on some CPUs.

In that layout, which it chooses at the first pass without gradients, its product has no backward
pass: torch warns and goes on, and all gradients are zero.
"""

from typing import Any

from torch import nn

from pellucid.core import NotDifferentiableError
from pellucid.hf._run_mode import list_modules

_SWITCH = "support_avx512bf16_for_cpu"


def keep_differentiable(model: nn.Module) -> None:
    """Have a model's quantised weights keep the layout that gradients can be taken through.

    Args:
        model: A model of one's own: an attribute of its modules is set.
    """
    for module in list_modules(model):
        if hasattr(module, _SWITCH):
            setattr(module, _SWITCH, False)


def check_differentiable(model: nn.Module) -> None:
    """Refuse a model whose quantised weights have been laid out for inference.

    Raises:
        NotDifferentiableError: (a ValueError) If there are any.
    """
    if any(map(_is_for_inference, list_modules(model))):
        raise NotDifferentiableError(
            "bitsandbytes has laid the model's weights of four bits out for inference, and "
            f"gradients through them would be zero. Load the model anew and set {_SWITCH} = False "
            "on its Linear4bit modules before the first pass, or let pellucid.hf load it by name."
        )


def _is_for_inference(module: Any) -> bool:
    state = getattr(module._parameters.get("weight"), "quant_state", None)
    return bool(getattr(state, "packing_format_for_cpu", False))
