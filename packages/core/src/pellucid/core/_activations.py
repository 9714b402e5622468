"""Activations by name: what a model that can be looked into offers to backends and losses."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class ActivationsRead(Exception):  # noqa: N818 - no error: all that is wanted has been read
    """Leaves a forward pass of which nothing more is wanted."""


@runtime_checkable
class ActivationReader(Protocol):
    """A model whose activations have names, such as `pellucid.bridge.TransformerBridge`."""

    @property
    def original_model(self) -> Any:
        """The model itself, which whoever reads calls."""
        ...

    @property
    def has_hooks(self) -> bool:
        """Whether hooks are attached that act on a pass."""
        ...

    def reading(
        self, names: Iterable[str] = (), *, stop: bool = False
    ) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Let activations be read off the original model, and its hooks act, for one pass.

        Args:
            names: Which activations, by any name that they have.
            stop: Whether to leave the pass, by raising `ActivationsRead`, when all are read.

        Returns:
            A context with what has been read, under the names given, with its graph.
        """
        ...
