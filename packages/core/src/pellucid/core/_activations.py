"""Activations by name: what a model that can be looked into offers to backends and losses."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


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


@dataclass(frozen=True, kw_only=True)
class NamedActivation:
    """A value inside of a module that is worth a name.

    Attributes:
        module: What gives it: a forward hook on it sees the value, and may replace it.
        shape: Its axes, such as "batch head pos d_head".
        meaning: What it is, in one line.
    """

    module: nn.Module
    shape: str
    meaning: str


@runtime_checkable
class ActivationSource(Protocol):
    """A module that names values beside what it takes and gives: a gate, a state.

    A bridge shows them as hook points of the block that the module stands in.
    """

    def named_activations(self) -> Mapping[str, NamedActivation]:
        """Return the values by their names within a block, such as "linear_attn.hook_gate"."""
        ...


@runtime_checkable
class DescribedModel(Protocol):
    """A model that says where its parts are, so that a bridge need not know its class."""

    def describe_architecture(self) -> Mapping[str, Any]:
        """Return plain data in the words of `pellucid.bridge.Architecture`.

        The key "config" holds what a configuration of transformers would say: `hidden_size`,
        `num_attention_heads`, `num_hidden_layers`, `vocab_size`.
        """
        ...
