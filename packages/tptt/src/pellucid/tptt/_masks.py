"""Which tokens count, read from every kind of mask that transformers gives to attention."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask

from pellucid.core import ArgumentError


def find_valid_tokens(
    attention_mask: Any, pos: int, *, first: int | None = None
) -> Bool[Tensor, "batch pos"] | None:
    """Return which of the last `pos` tokens count; None if all do.

    A token counts if it is attended to by any, be it only by itself.

    Args:
        attention_mask: None; one entry for each token, true or 1 where it counts; or one for each
            pair of tokens, with or without an axis of heads, boolean or to be added to scores; or
            the block mask of flex attention.
        pos: How many tokens there are now, beside those in a cache.
        first: The column of the first of them; the last `pos` columns when omitted.

    Raises:
        ArgumentError: (a ValueError) If the mask is of no such kind.
    """
    if attention_mask is None:
        return None
    if isinstance(attention_mask, BlockMask):
        attention_mask = _materialize(attention_mask)
    if not isinstance(attention_mask, Tensor) or attention_mask.ndim not in (2, 3, 4):
        shape = getattr(attention_mask, "shape", None)
        raise ArgumentError(
            f"an attention mask of type {type(attention_mask).__name__} and shape "
            f"{None if shape is None else tuple(shape)!r} is not understood. Give one of 2, 3 or 4 "
            "axes, or a BlockMask."
        )
    counts = _read(attention_mask)
    while counts.ndim > 2:
        counts = counts.any(dim=1)
    start = counts.shape[1] - pos if first is None else first
    if start < 0 or start + pos > counts.shape[1]:
        raise ArgumentError(
            f"the attention mask has {counts.shape[1]} columns, fewer than the {pos} tokens given."
        )
    return counts[:, start : start + pos]


def apply_linear_attention_mask(
    attention_mask: Shaped[Tensor, "*shape"],
    v: Float[Tensor, "batch pos *rest"],
    padding_side: str = "right",
) -> Float[Tensor, "batch pos *rest"]:
    """Set values to zero where tokens do not count.

    `LinearAttention` leaves such tokens out altogether, keys included.

    Args:
        attention_mask: See `find_valid_tokens`.
        v: One entry for each token.
        padding_side: Whether a mask with more columns than tokens begins ("left" padding keeps the
            last columns) or ends with those of other tokens.
    """
    columns, pos = attention_mask.shape[-1], v.shape[1]
    first = None if padding_side == "left" or columns < pos else 0
    valid = find_valid_tokens(attention_mask, pos, first=first)
    assert valid is not None
    return v.masked_fill(~valid.reshape(*valid.shape, *(1,) * (v.ndim - 2)), 0)


def truncate_attention_mask(
    hidden_states: Float[Tensor, "batch pos d_model"],
    attention_mask: Shaped[Tensor, "*shape"] | None,
    max_length: int,
) -> tuple[Float[Tensor, "batch kept d_model"], Shaped[Tensor, "..."] | None]:
    """Keep the last tokens, and what a mask says of them.

    Raises:
        ArgumentError: (a ValueError) If the mask has neither 2, 3 nor 4 axes.
    """
    if max_length < 1:
        raise ArgumentError(f"max_length must be 1 or more, got {max_length!r}.")
    kept = hidden_states[:, -max_length:]
    if attention_mask is None:
        return kept, None
    if attention_mask.ndim == 2:
        return kept, attention_mask[:, -max_length:]
    if attention_mask.ndim in (3, 4):
        return kept, attention_mask[..., -max_length:, -max_length:]
    raise ArgumentError(f"a mask has 2, 3 or 4 axes, got {attention_mask.ndim!r}.")


def narrow_mask(
    attention_mask: Any,
    x: Float[Tensor, "batch pos d_model"],
    *,
    window: int,
    first: int,
    implementation: str,
    is_causal: bool,
    columns: int | None = None,
) -> Tensor:
    """Let each token attend to the `window` nearest tokens alone, itself included.

    Args:
        attention_mask: What attention was given.
        x: The tokens, for their number, dtype and device.
        window: How many tokens to attend to.
        first: How many tokens a cache holds.
        implementation: That of attention; "eager" adds masks to scores.
        is_causal: Whether no token attends to later ones.
        columns: How many keys there are, if the mask does not say so; as many as tokens so far when
            omitted.

    Raises:
        ArgumentError: (a ValueError) If the implementation takes no mask of pairs.
    """
    if implementation not in ("eager", "sdpa"):
        raise ArgumentError(
            f"max_self_attn_length works with attn_implementation 'eager' or 'sdpa', not "
            f"{implementation!r}. Load the model with one of them."
        )
    pos = x.shape[1]
    n_keys = first + pos if columns is None else columns
    if attention_mask is not None:
        n_keys = int(attention_mask.shape[-1])
    query = torch.arange(first, first + pos, device=x.device)[:, None]
    key = torch.arange(n_keys, device=x.device)[None, :]
    is_near = (query - key < window) & ((key <= query) if is_causal else (key - query < window))
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        return attention_mask & is_near
    if attention_mask is None and implementation == "sdpa":
        return is_near[None, None]
    added = x.new_zeros(1, 1, pos, n_keys) if attention_mask is None else attention_mask
    return added.masked_fill(~is_near, torch.finfo(added.dtype).min)


def _read(mask: Tensor) -> Tensor:
    if not mask.is_floating_point():
        return mask != 0
    if mask.ndim == 2 and not bool((mask < 0).any()):
        return mask != 0
    return mask > torch.finfo(mask.dtype).min / 2


def _materialize(mask: BlockMask) -> Tensor:
    batch, heads, rows, columns = mask.shape
    device = str(mask.kv_num_blocks.device)
    return create_mask(mask.mask_mod, batch, heads, rows, columns, device=device)
