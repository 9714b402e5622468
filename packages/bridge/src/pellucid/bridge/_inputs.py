"""What a forward pass is given, in the form that the model takes."""

import dataclasses
from typing import Any

from torch import Tensor

from pellucid.core import ArgumentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """One batch.

    Attributes:
        model: Keywords for the model's forward.
        tokens: Token ids, of shape (batch, pos), if there are any.
        attention_mask: 0 where a position is padding, if any is.
        residual: The stream to start from, of shape (batch, pos, d_model).
    """

    model: dict[str, Any]
    tokens: Tensor | None = None
    attention_mask: Tensor | None = None
    residual: Tensor | None = None


def prepare_inputs(
    bridge: Any,
    given: Any,
    *,
    prepend_bos: bool | None,
    padding_side: str | None,
    attention_mask: Tensor | None,
    is_residual: bool,
) -> Inputs:
    """Return the batch that an input stands for.

    Raises:
        ArgumentError: (a ValueError) If it is none of the kinds that are understood.
    """
    mask = attention_mask
    positions: dict[str, Tensor] = {}
    if isinstance(given, (str, list)):
        batch = bridge.encode_batch(given, prepend_bos=prepend_bos, padding_side=padding_side)
        given = batch.tokens
        mask = batch.attention_mask if mask is None else mask
        positions = batch.positions
    if not isinstance(given, Tensor):
        raise ArgumentError(
            f"the input must be text, a list of texts or a tensor, got {type(given).__name__}."
        )
    rest = {**({} if mask is None else {"attention_mask": mask}), **positions}
    if given.is_floating_point():
        embeds = given if given.ndim == 3 else given[None]
        model = {"inputs_embeds": embeds, **rest}
        return Inputs(model=model, attention_mask=mask, residual=embeds if is_residual else None)
    if is_residual:
        raise ArgumentError(
            "start_at_layer takes the residual stream, floats of shape (batch, pos, d_model), got "
            f"{given.dtype}."
        )
    tokens = given if given.ndim == 2 else given[None]
    return Inputs(
        model={"input_ids": tokens.to(bridge.device), **rest}, tokens=tokens, attention_mask=mask
    )
