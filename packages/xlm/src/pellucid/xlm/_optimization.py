"""Which weights decay, and how a harness steps them."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from pellucid.core import ArgumentError
from pellucid.xlm._building import build
from pellucid.xlm._schedules import build_lr_schedule

Group = dict[str, Any]

_CLIP_EPS = 1e-6  # what torch adds to the norm


def parameter_groups(model: nn.Module) -> list[Group]:
    """Part a model's trainable weights into those that decay and those that do not.

    Args:
        model: With `get_param_groups()`, or with the two iterators of `pellucid.xlm.Model`; every
            weight of any other model decays.

    Raises:
        ArgumentError: The two iterators are no partition of the weights.
    """
    own: Any = getattr(model, "get_param_groups", None)
    if own is not None:
        return list(own())
    decaying: Any = getattr(model, "get_named_params_for_weight_decay", None)
    others: Any = getattr(model, "get_named_params_for_no_weight_decay", None)
    if decaying is None or others is None:
        return [{"params": [weight for weight in model.parameters() if weight.requires_grad]}]
    decay, rest = dict(decaying()), dict(others())
    _check_partition(model, decay, rest)
    groups: list[Group] = [
        {"params": _trainable(decay.values())},
        {"params": _trainable(rest.values()), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def configure(cfg: Any, model: nn.Module, max_steps: int) -> dict[str, Any]:
    """Build what `optimizer` and `lr_scheduler` say, as Lightning takes it.

    Args:
        cfg: The whole configuration. `optimizer` is a class, its weights left out.
        model: Whose weights are stepped.
        max_steps: Length of the run, for a schedule that names none.
    """
    groups = parameter_groups(model)
    optimizer = build(cfg, "optimizer", groups)
    node: Any = OmegaConf.select(cfg, "lr_scheduler") if isinstance(cfg, DictConfig) else None
    if node is None:
        return {"optimizer": optimizer}
    held: Any = OmegaConf.to_container(node, resolve=True)
    settings: dict[str, Any] = dict(held)
    if settings.get("num_training_steps") is None and max_steps > 0:
        settings["num_training_steps"] = max_steps
    schedule = build_lr_schedule(optimizer, **settings)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def clip(weights: Sequence[nn.Parameter], at: float, algorithm: str | None) -> Tensor | None:
    """Clip gradients in place.

    Args:
        weights: Whose gradients.
        at: The largest norm, or the largest value.
        algorithm: "value" clips each number; anything else the norm of all.

    Returns:
        The norm before clipping, still on the device; None if values were clipped.
    """
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(weights, at)
        return None
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    # On a CPU it costs nothing to look, and most steps have nothing to clip.
    if norm.device.type != "cpu" or not norm.item() + _CLIP_EPS <= at:
        torch.nn.utils.clip_grads_with_norm_(weights, at, norm)
    return norm


def _check_partition(
    model: nn.Module, decay: dict[str, nn.Parameter], rest: dict[str, nn.Parameter]
) -> None:
    twice = decay.keys() & rest.keys()
    missing = dict(model.named_parameters()).keys() - decay.keys() - rest.keys()
    for name in sorted(twice | missing):
        fault = "in both" if name in twice else "in neither"
        message = (
            f"weight {name!r} of {type(model).__name__} is {fault} of the groups with and without "
            "weight decay; the two must be a partition"
        )
        raise ArgumentError(message)


def _trainable(weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [weight for weight in weights if weight.requires_grad]


__all__ = ["clip", "configure", "parameter_groups"]
