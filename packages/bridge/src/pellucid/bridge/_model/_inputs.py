"""What a forward pass is given, in the form that the model takes."""

import dataclasses
from typing import Any

from torch import Tensor

from pellucid.core import ArgumentError

# Names of other libraries for arguments of transformers' models.
_RENAMED = {
    "decoder_input": "decoder_input_ids",
    "one_zero_attention_mask": "attention_mask",
    "use_past_kv_cache": "use_cache",
}
_NO_LABEL = -100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """One batch.

    Attributes:
        model: Keywords for the model's forward.
        tokens: Token ids, of shape (batch, pos), if there are any.
        attention_mask: 0 where a position is padding, if any is.
        residual: The stream to start from, of shape (batch, pos, d_model).
        labels: The tokens whose loss is wanted, of shape (batch, pos).
    """

    model: dict[str, Any]
    tokens: Tensor | None = None
    attention_mask: Tensor | None = None
    residual: Tensor | None = None
    labels: Tensor | None = None


def prepare_inputs(
    bridge: Any,
    given: Any,
    *,
    prepend_bos: bool | None,
    padding_side: str | None,
    attention_mask: Tensor | None,
    labels: Tensor | None,
    is_residual: bool,
    more: dict[str, Any],
) -> Inputs:
    """Return the batch that an input stands for.

    Raises:
        ArgumentError: (a ValueError) If it is none of the kinds that are understood.
    """
    more = {_RENAMED.get(name, name): held for name, held in more.items()}
    mask = more.pop("attention_mask", None) if attention_mask is None else attention_mask
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
    rest = {**({} if mask is None else {"attention_mask": mask}), **positions, **more}
    if given.is_floating_point():
        embeds = given if given.ndim == 3 else given[None]
        model = {"inputs_embeds": embeds, **rest}
        return Inputs(
            model=model,
            attention_mask=mask,
            residual=embeds if is_residual else None,
            labels=labels,
        )
    if is_residual:
        raise ArgumentError(
            "start_at_layer takes the residual stream, floats of shape (batch, pos, d_model), got "
            f"{given.dtype}."
        )
    tokens = given if given.ndim == 2 else given[None]
    tokens = tokens.to(bridge.device)
    if getattr(bridge.hf_config, "is_encoder_decoder", False):
        rest = {**_decoder_inputs(bridge.hf_config, tokens, labels), **rest}
    model = {bridge.adapter.input_name: tokens, **rest}
    return Inputs(model=model, tokens=tokens, attention_mask=mask, labels=labels)


def _decoder_inputs(config: Any, tokens: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """Return what the decoder reads unless told: the labels, or the input, moved on by one."""
    start = config.decoder_start_token_id
    pad = config.pad_token_id or 0
    source = tokens if labels is None else labels.to(tokens.device)
    moved = source.roll(1, dims=-1)
    moved[..., 0] = pad if start is None else start
    return {"decoder_input_ids": moved.masked_fill(moved == _NO_LABEL, pad)}
