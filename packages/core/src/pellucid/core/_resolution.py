"""Hands a loss the fields it names."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core._container import set_fields
from pellucid.core._errors import ContractError, LossResolutionError
from pellucid.core._loss import BaseLoss, CombinedLoss
from pellucid.core._model_io import ModelInput, ModelOutput


def resolve_and_compute_loss(
    model_output: ModelOutput,
    model_input: ModelInput,
    loss_func: BaseLoss,
    *,
    is_continued: bool = False,
) -> Float[Tensor, " batch"]:
    """Compute a loss from what a model was given and returned.

    Each field that the loss names is looked up in the output, then in the input, then in the
    template's targets. The components of a `CombinedLoss` are resolved one by one and brought to
    the first component's device, in float32 or wider.

    Args:
        model_output: What the model returned for one template.
        model_input: What it was given, targets included.
        loss_func: The loss.
        is_continued: Whether these samples and the latest before them belong together, so that the
            loss logs the lowest of them all.

    Returns:
        The loss of each sample, float, of shape (batch,).

    Raises:
        LossResolutionError: If a field that the loss needs is not there.
        ContractError: If the loss returns anything but one float for each sample.
    """
    if isinstance(loss_func, CombinedLoss):
        parts = [
            resolve_and_compute_loss(model_output, model_input, loss, is_continued=is_continued)
            for loss in loss_func
        ]
        losses = loss_func(_stack(parts))
    else:
        losses = loss_func(**_collect_fields(model_output, model_input, loss_func))
    _check_losses(losses, loss_func, _count_samples(model_output, model_input))
    latest, before = losses.detach(), loss_func._last_loss_vals  # pyright: ignore[reportPrivateUsage]
    if is_continued and before is not None:
        latest = torch.cat([before, latest.to(before)])
    # By way of object, since a loss may be a frozen dataclass.
    object.__setattr__(loss_func, "_last_loss_vals", latest)
    return losses


def replace_nan(losses: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return losses with NaN made +inf, so that no comparison lets a NaN win."""
    return torch.where(losses.isnan(), torch.inf, losses)


def _collect_fields(
    model_output: ModelOutput, model_input: ModelInput, loss_func: BaseLoss
) -> dict[str, Any]:
    held = _merge_fields(model_output, model_input)
    reads = loss_func.reads()
    for name in sorted(reads.required - held.keys()):
        raise LossResolutionError(
            type(loss_func).__name__, name, _list_available(model_output, model_input)
        )
    wanted = held.keys() if reads.takes_all else reads.fields
    return {name: held[name] for name in wanted if name in held}


def _merge_fields(model_output: ModelOutput, model_input: ModelInput) -> dict[str, Any]:
    targets = model_input.message_targets
    return {
        **(set_fields(targets) if targets is not None else {}),
        **set_fields(model_input),
        **set_fields(model_output),
        "model_output": model_output,
        "model_input": model_input,
    }


def _list_available(model_output: ModelOutput, model_input: ModelInput) -> dict[str, list[str]]:
    targets = model_input.message_targets
    return {
        "output": list(set_fields(model_output)),
        "input": list(set_fields(model_input)),
        "targets": list(set_fields(targets)) if targets is not None else [],
    }


def _stack(parts: list[Tensor]) -> Tensor:
    dtype = torch.promote_types(parts[0].dtype, torch.float32)
    return torch.stack([part.to(device=parts[0].device, dtype=dtype) for part in parts])


def _count_samples(model_output: ModelOutput, model_input: ModelInput) -> int | None:
    output = set_fields(model_output)
    named: dict[str, Tensor] = output.pop("activations", {})
    batched = [*output.values(), *named.values(), model_input.input_texts]
    return next((len(held) for held in batched if isinstance(held, (Tensor, list))), None)


def _check_losses(losses: Any, loss_func: BaseLoss, n_samples: int | None) -> None:
    if (
        isinstance(losses, Tensor)
        and losses.is_floating_point()
        and losses.ndim == 1
        and n_samples in (None, len(losses))
    ):
        return
    got = (
        f"a tensor of {losses.dtype} with shape {tuple(losses.shape)}"
        if isinstance(losses, Tensor)
        else type(losses).__name__
    )
    raise ContractError(
        f"{type(loss_func).__name__} must return Float[Tensor, 'batch'], one loss for each "
        f"{'sample' if n_samples is None else f'of {n_samples} samples'}, got {got}."
    )
