"""How an activation follows from what modules take and give, for runs that change nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

AttentionPlace: TypeAlias = Literal["queries", "keys", "scores", "pattern", "convolution"]
Place: TypeAlias = Literal["before", "after"] | AttentionPlace


@dataclasses.dataclass(frozen=True)
class Source:
    """Something that passes during a run.

    Attributes:
        module: The module.
        place: What it takes, what it gives, or what attention or a state space does inside.
        item: Which element, if the module gives a tuple; which of its arguments, or its name.
    """

    module: nn.Module
    place: Place
    item: int | str = 0


@dataclasses.dataclass(frozen=True)
class Reading:
    """An activation as a function of what passes.

    Attributes:
        sources: What it is made of.
        derive: Takes these, in order.
        needs_weights: Whether it also is made of weights, which may have changed when somebody
            asks for it.
    """

    sources: tuple[Source, ...]
    derive: Callable[..., Any]
    needs_weights: bool = False


def same(value: Tensor) -> Tensor:
    """Return what passes as it is."""
    return value
