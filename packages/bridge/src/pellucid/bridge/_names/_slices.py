"""Which entries of an axis are meant."""

from typing import Any, Literal

import torch
from torch import Tensor

from pellucid.core import ArgumentError


class Slice:
    """Entries of an axis: all, one, a range, or a list of them.

    Examples:
        `Slice()` is all entries, `Slice(-1)` the last one, `Slice((0, 10))` the first ten,
        `Slice([1, 5])` two of them.

    Args:
        input_slice: None, a number, (start, stop), (start, stop, step), a slice, a list of numbers,
            or a tensor of them; a boolean tensor says of each entry whether it is meant.

    Raises:
        ArgumentError: (a ValueError) If it is none of these.

    Attributes:
        slice: What torch indexes an axis with.
        mode: "identity", "int", "slice" or "array".
    """

    slice: Any
    mode: Literal["identity", "int", "slice", "array"]

    def __init__(self, input_slice: Any = None) -> None:
        given = input_slice.slice if isinstance(input_slice, Slice) else input_slice
        if given is None:
            self.slice, self.mode = slice(None), "identity"
        elif isinstance(given, int) and not isinstance(given, bool):
            self.slice, self.mode = given, "int"
        elif isinstance(given, slice):
            self.slice, self.mode = given, "slice"
        elif isinstance(given, tuple) and all(one is None or isinstance(one, int) for one in given):
            self.slice, self.mode = slice(*given), "slice"
        else:
            self.slice, self.mode = _read_array(given), "array"

    @classmethod
    def unwrap(cls, input_slice: Any) -> "Slice":
        """Return a slice that keeps the axis: one entry becomes a list of one."""
        held = cls(input_slice)
        return cls([held.slice]) if held.mode == "int" else held

    def apply(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Return the entries of one axis; one entry leaves no axis."""
        if self.mode == "identity":
            return tensor
        if self.mode == "int":
            return tensor.select(dim, self.slice)
        places = dim % tensor.ndim
        held = self.slice.to(tensor.device) if self.mode == "array" else self.slice
        return tensor[(slice(None),) * places + (held,)]

    def indices(self, max_ctx: int) -> list[int]:
        """Return the numbers of the entries, of an axis of this length."""
        chosen = torch.arange(max_ctx)[self.slice]
        return chosen.reshape(-1).tolist()

    def __repr__(self) -> str:
        return f"Slice({self.slice!r}, mode={self.mode!r})"


def _read_array(given: Any) -> Tensor:
    try:
        held = given if isinstance(given, Tensor) else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        held = None
    if held is None or held.ndim != 1 or held.is_floating_point():
        raise ArgumentError(
            "a slice must be None, a number, (start, stop), a slice, or a list of numbers, got "
            f"{given!r}."
        )
    return held.long() if held.dtype != torch.bool else held
