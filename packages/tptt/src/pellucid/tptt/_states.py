"""Where linear attention keeps what it remembers of the tokens before."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class StateStore(Protocol):
    """Holds, for each layer, named tensors and tuples of tensors; rows of a batch come first."""

    def __getitem__(self, layer_idx: int) -> Mapping[str, Any] | None:
        """Return what a layer remembers; None if it remembers nothing."""
        ...

    def update(self, layer_idx: int, **kwargs: Any) -> None:
        """Keep values for a layer, beside what it remembers under other names."""
        ...

    def replace(self, layer_idx: int, states: Mapping[str, Any]) -> None:
        """Remember these values, which have no graphs, and nothing else."""
        ...


class LCache:
    """Keeps the states of linear attention layers outside of a cache of transformers.

    For layers that are called by themselves, with `use_cache=True`. A whole model keeps its states
    in the cache of transformers that it is given, where beam search finds them; this object then
    shows those of the latest cache (`follow`).

    Attributes:
        inputs_states: What each layer remembers, by its index.
    """

    def __init__(self) -> None:
        self.inputs_states: dict[int, dict[str, Any]] = {}
        self._followed: StateStore | None = None

    def __getitem__(self, layer_idx: int) -> Mapping[str, Any] | None:
        """Return what a layer remembers; None if it remembers nothing."""
        own = self.inputs_states.get(layer_idx)
        return self._followed[layer_idx] if own is None and self._followed is not None else own

    def update(self, layer_idx: int, **kwargs: Any) -> None:
        """Keep values for a layer, without the graphs of their gradients."""
        kept = {name: map_tensors(value, detach) for name, value in kwargs.items()}
        self.inputs_states.setdefault(layer_idx, {}).update(kept)

    def replace(self, layer_idx: int, states: Mapping[str, Any]) -> None:
        """Remember these values, which have no graphs, and nothing else."""
        self.inputs_states[layer_idx] = dict(states)

    def reset(self) -> None:
        """Forget everything."""
        self.inputs_states.clear()
        self._followed = None

    def follow(self, store: StateStore) -> None:
        """Show the states of another store where there are none here."""
        self._followed = store


def detach(x: Tensor) -> Tensor:
    """Return a tensor without the graph of its gradient, itself if it has none."""
    return x.detach() if x.requires_grad else x


def map_tensors(value: Any, change: Any) -> Any:
    """Apply a function to a tensor, or to each of a tuple; what is neither stays as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(item, change) for item in value)
    return value


def take_last(
    before: Tensor | None, x: Tensor, count: int, lengths: Tensor | None, *, dim: int
) -> Tensor:
    """Return the last `count` entries that count of what came before and of `x`.

    Args:
        before: Entries before the first of `x`, `count` of them; zeros when None.
        x: New entries, rows of a batch first.
        count: How many to return.
        lengths: How many of each row of `x` count, from its start; all of them when None.
        dim: The axis of the entries.
    """
    if before is None:
        shape = (*x.shape[:dim], count, *x.shape[dim + 1 :])
        before = x.new_zeros(shape)
    if count == 0:
        return before
    if lengths is None:
        new = min(count, x.shape[dim])
        last = x.narrow(dim, x.shape[dim] - new, new)
        if new == count:
            return last.clone()  # a view would hold on to all of a long prompt
        return torch.cat((before.narrow(dim, new, count - new).to(x.dtype), last), dim=dim)
    whole = torch.cat((before.to(x.dtype), x), dim=dim)
    index = lengths[:, None] + torch.arange(count, device=x.device)
    index = index.view(len(index), *(1,) * (dim - 1), count, *(1,) * (x.ndim - dim - 1))
    return whole.gather(dim, index.expand(*whole.shape[:dim], count, *whole.shape[dim + 1 :]))
