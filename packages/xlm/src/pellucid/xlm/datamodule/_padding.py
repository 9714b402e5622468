"""From rows of unequal length to a rectangle, without a Python loop over tokens."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.xlm.datamodule._ragged import Ragged, Side


def pad_rows(
    rows: Sequence[Sequence[int]],
    width: int | None = None,
    *,
    pad: int,
    pad_side: Side = "right",
    truncate_side: Side = "right",
) -> tuple[Int64[Tensor, "batch pos"], Int64[Tensor, " batch"]]:
    """Lay rows out in a rectangle.

    Args:
        rows: Token ids, each row of any length.
        width: Of the rectangle; that of the longest row if None.
        pad: What stands where a row has no token.
        pad_side: On which side of a short row the padding stands.
        truncate_side: From which side of a long row tokens are taken away.

    Returns:
        The rectangle, and how many tokens each row has left in it.

    Raises:
        ArgumentError: The width is negative.
    """
    if width is not None and width < 0:
        raise ArgumentError(f"width is {width!r}; a rectangle has at least 0 columns")
    padded, _, kept = _place(rows, width, pad=pad, pad_side=pad_side, truncate_side=truncate_side)
    return torch.from_numpy(padded), torch.from_numpy(kept)


def pad_with_mask(
    rows: Sequence[Sequence[int]], width: int, *, pad: int, pad_side: Side = "right"
) -> tuple[Int64[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Lay rows out as `pad_rows` does; return the rectangle, and where it holds tokens."""
    padded, is_token, _ = _place(rows, width, pad=pad, pad_side=pad_side, truncate_side="right")
    return torch.from_numpy(padded), torch.from_numpy(is_token)


def _place(
    rows: Sequence[Sequence[int]],
    width: int | None,
    *,
    pad: int,
    pad_side: Side,
    truncate_side: Side,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ragged = Ragged.of(rows)
    wide = ragged.longest if width is None else width
    return ragged.place(wide, pad=pad, pad_side=pad_side, truncate_side=truncate_side)


def is_token_mask(
    lengths: Int64[Tensor, " batch"], width: int, *, pad_side: Side = "right"
) -> torch.Tensor:
    """Return where the tokens of a rectangle from `pad_rows` stand: bool, (batch, pos)."""
    columns = torch.arange(width)
    if pad_side == "left":
        return columns >= (width - lengths)[:, None]
    return columns < lengths[:, None]


def pad_truncate_list(
    ids: list[int],
    max_len: int,
    pad_token_id: int,
    pad_left: bool = False,
    *,
    truncate_left: bool = False,
) -> list[int]:
    """Bring one list to a length.

    Args:
        ids: Token ids; left as they are.
        max_len: The length of the result.
        pad_token_id: What fills a short list.
        pad_left: Fill before the tokens rather than after them.
        truncate_left: Cut a long list at its beginning rather than at its end.

    Raises:
        ArgumentError: The length is negative.
    """
    if max_len < 0:
        raise ArgumentError(f"max_len is {max_len!r}; a list has at least 0 entries")
    kept = ids[max(len(ids) - max_len, 0) :] if truncate_left else ids[:max_len]
    padding = [pad_token_id] * (max_len - len(kept))
    return padding + kept if pad_left else kept + padding
