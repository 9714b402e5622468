"""What the bridge refuses."""

import difflib
from collections.abc import Iterable
from typing import Any

from pellucid.core import PellucidError


class HookNameError(PellucidError, KeyError, AttributeError):
    """No activation of the model has this name.

    Attributes:
        hook_name: The name.
        near: Names that resemble it.
    """

    def __init__(self, hook_name: str, known: Iterable[str], *, where: str = "the model") -> None:
        self.hook_name = hook_name
        self.near = difflib.get_close_matches(hook_name, list(known), n=3, cutoff=0.6)
        advice = (
            f"Did you mean {' or '.join(map(repr, self.near))}?"
            if self.near
            else "hook_table() lists all names."
        )
        super().__init__(f"{where} has no activation {hook_name!r}. {advice}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.hook_name, self.near)

    def __str__(self) -> str:
        # KeyError shows its argument quoted; this one is a sentence.
        return str(self.args[0])


class HookError(PellucidError, ValueError):
    """A hook gave back what cannot stand in the activation's place, or changed it unseen."""


class ArchitectureError(PellucidError, ValueError, NotImplementedError):
    """A model's structure is not one that the bridge can look into."""


class WeightError(PellucidError, AttributeError):
    """The model has no weight of this name, or none that is the same in all blocks."""


class StateDictError(PellucidError, RuntimeError):
    """A state dictionary does not fit the model."""


class CacheFileError(PellucidError, ValueError):
    """A file is no cache of activations, or one that does not fit."""


class StopAtLayerException(PellucidError):  # noqa: N818 - the name its users know
    """Leaves a forward pass before a block.

    Attributes:
        layer_output: The residual stream that enters the block, of shape (batch, pos, d_model).
    """

    def __init__(self, layer_output: Any) -> None:
        self.layer_output = layer_output
        super().__init__("the forward pass stopped before a block, as it was asked to.")
