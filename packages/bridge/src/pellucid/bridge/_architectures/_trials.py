"""Changes that must not show if a claim about a model holds, tried without touching a weight."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pellucid.bridge._weights._ground import Ground

# Of log-probabilities, in nats: above what rounding does, below what a false claim does.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_LOOSE = 0.3


@dataclass(frozen=True, eq=False)
class Change:
    """One change of what a module takes or gives.

    Attributes:
        module: The module.
        side: What it takes, or what it gives.
        function: The change.
    """

    module: nn.Module
    side: Literal["before", "after"]
    function: Callable[[Tensor], Tensor]

    def before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Change the first tensor that the module takes, as a hook of torch."""
        if args:
            return (self.function(args[0]), *args[1:]), kwargs
        first = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        return args, {**kwargs, first: self.function(kwargs[first])}

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Change the first tensor that it gives, as a hook of torch."""
        if isinstance(output, Tensor):
            return self.function(output)
        return (self.function(output[0]), *output[1:])


Groups = Mapping[str, Sequence[Change]]


def find_visible(ground: Ground, groups: Groups) -> str | None:
    """Return the name of a group of changes that shows in the predictions, None if none does.

    All are tried at once, in one forward pass; only if something shows is it looked for.

    Args:
        ground: The model.
        groups: Changes that belong together, by name.
    """
    if not groups:
        return None
    expected = ground.predict()
    names = list(groups)
    if _is_same(_predict(ground, groups, names), expected):
        return None
    while len(names) > 1:
        half = names[: len(names) // 2]
        if _is_same(_predict(ground, groups, half), expected):
            # Changes that show together alone are looked for in what is left.
            half = names[len(names) // 2 :]
        names = half
    return names[0]


def _predict(ground: Ground, groups: Groups, names: Sequence[str]) -> Tensor:
    changes = itertools.chain.from_iterable(groups[name] for name in names)
    with ExitStack() as stack:
        for change in changes:
            handle = _install(change)
            stack.callback(handle.remove)
        return ground.predict()


def _install(change: Change) -> Any:
    if change.side == "before":
        return change.module.register_forward_pre_hook(change.before, with_kwargs=True)
    # What others have hooked to the module is a part of the model, and comes after the change.
    return change.module.register_forward_hook(change.after, prepend=True)


def _is_same(made: Tensor, expected: Tensor) -> bool:
    gap = (made - expected).nan_to_num(nan=float("inf")).abs().max()
    return bool(gap <= _TOLERANCE.get(made.dtype, _LOOSE))


def double(x: Tensor) -> Tensor:
    """Return twice a tensor, which rounds nothing."""
    return 2 * x


def halve(x: Tensor) -> Tensor:
    """Return half a tensor, which rounds nothing."""
    return x / 2


def shift(x: Tensor) -> Tensor:
    """Add one number, of the size of its entries, to a tensor."""
    return x + x.abs().mean()
