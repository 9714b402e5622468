"""The contract of a loss, and the weighted sum of several."""

import dataclasses
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core._errors import ArgumentError, RequirementError
from pellucid.core._states import STATE_FIELDS, StateSelection, join_selections

WHOLE_CONTAINERS = frozenset({"model_output", "model_input"})
"""Parameter names by which a loss asks for a whole container."""

REQUIRE_OPTIONS = (
    "require_target_prefill",
    "require_generation",
    "require_hidden_states",
    "require_attentions",
    "require_first_token_logprobs",
)
"""What a loss may ask a forward pass to do; models take keyword arguments of these names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossReads:
    """What a loss reads.

    Attributes:
        required: Fields without which it cannot be computed.
        optional: Fields it uses when they are there.
        takes_all: Whether it takes every field there is (a `**kwargs` parameter).
    """

    required: frozenset[str]
    optional: frozenset[str] = frozenset()
    takes_all: bool = False

    @property
    def fields(self) -> frozenset[str]:
        """Every field it may read."""
        return self.required | self.optional


class BaseLoss(ABC):
    """A loss over one template: a value for each sample, the lower the better.

    A subclass, usually a dataclass whose fields are hyperparameters, gives `__call__`. The names
    of its parameters are what it reads: fields of `ModelOutput`, `ModelInput` and
    `MessageTargets`, or `model_output` and `model_input` for the whole. A parameter with a default
    is left out when its field is not there. Losses hold no data of a template: targets come from
    `Targets`. Arithmetic is in float32 whatever the model computes in.
    """

    is_differentiable: ClassVar[bool] = True
    require_gradients: ClassVar[bool] = False
    require_target_prefill: ClassVar[bool] = False
    require_generation: ClassVar[bool] = False
    require_hidden_states: ClassVar[bool] = False
    require_attentions: ClassVar[bool] = False
    require_first_token_logprobs: ClassVar[bool] = False

    _last_loss_vals: Tensor | None = None

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Float[Tensor, " batch"]:
        """Return the loss of each sample, float, of shape (batch,)."""

    def reads(self) -> LossReads:
        """Say what the loss reads; by default, what its `__call__` names."""
        return reads_of_signature(type(self))

    def options(self) -> dict[str, bool]:
        """Return what the forward pass must do, by the names in `REQUIRE_OPTIONS`."""
        return {name: bool(getattr(self, name)) for name in REQUIRE_OPTIONS}

    def selections(self) -> dict[str, StateSelection]:
        """Say what part of hidden states and attention patterns the loss reads, by field.

        Nothing by default: a loss is given whole tensors of the fields that it reads. One that says
        more must name `held_hidden_states` or `held_attentions` among what it reads, which tell
        where a layer and a position lie in the tensor; they are None where the tensor is whole.
        """
        return {}

    def activation_names(self) -> frozenset[str]:
        """Say which activations the loss reads by name; none by default.

        One that names any reads the field `activations`.
        """
        return frozenset()

    def contains_loss_type(self, loss_type: type["BaseLoss"]) -> bool:
        """Say whether this is, or holds, a loss of a type."""
        return isinstance(self, loss_type)

    def get_loss_log_dict(self) -> dict[str, float]:
        """Return the lowest loss of the latest batch, by class name; nothing before the first."""
        if self._last_loss_vals is None:
            return {}
        return {type(self).__name__: float(self._last_loss_vals.min())}


class CombinedLoss(BaseLoss):
    """The weighted sum of several losses, each resolved on its own; may hold combined losses.

    Args:
        loss_funcs: The components.
        weights: A factor for each; equal shares of 1 when omitted. Used as given.

    Raises:
        ArgumentError: If there is no component, or if weights and components differ in number.
        RequirementError: If a component is not a `BaseLoss`.
    """

    def __init__(
        self, loss_funcs: Sequence[BaseLoss], weights: Sequence[float] | None = None
    ) -> None:
        _check_components(loss_funcs, weights)
        self.loss_funcs = tuple(loss_funcs)
        share = [1 / len(self.loss_funcs)] * len(self.loss_funcs)
        self.weights = tuple(float(weight) for weight in (share if weights is None else weights))

    @property
    def is_differentiable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether every component is."""
        return all(loss.is_differentiable for loss in self.loss_funcs)

    def __call__(self, loss_values: Float[Tensor, "n_losses batch"]) -> Float[Tensor, " batch"]:
        """Sum the components' losses with their weights.

        Args:
            loss_values: The loss of each component and sample, float, of shape (n_losses, batch).

        Returns:
            The loss of each sample, float, of shape (batch,).
        """
        weights = torch.tensor(self.weights, dtype=loss_values.dtype, device=loss_values.device)
        return (weights[:, None] * loss_values).sum(dim=0)

    def __iter__(self) -> Iterator[BaseLoss]:
        return iter(self.loss_funcs)

    def __len__(self) -> int:
        return len(self.loss_funcs)

    def __repr__(self) -> str:
        return f"CombinedLoss({list(self.loss_funcs)!r}, weights={list(self.weights)!r})"

    def reads(self) -> LossReads:
        """Return what the components read, taken together."""
        parts = [loss.reads() for loss in self.loss_funcs]
        return LossReads(
            required=frozenset().union(*(part.required for part in parts)),
            optional=frozenset().union(*(part.optional for part in parts)),
            takes_all=any(part.takes_all for part in parts),
        )

    def options(self) -> dict[str, bool]:
        """Return what any component asks of the forward pass."""
        parts = [loss.options() for loss in self.loss_funcs]
        return {name: any(part[name] for part in parts) for name in REQUIRE_OPTIONS}

    def selections(self) -> dict[str, StateSelection]:
        """Return what covers all that the components read."""
        readers = {
            field: [loss.selections() for loss in self.loss_funcs if _may_read(loss, field)]
            for field in STATE_FIELDS
        }
        joined = {field: join_selections(held, field) for field, held in readers.items()}
        return {field: held for field, held in joined.items() if held is not None}

    def activation_names(self) -> frozenset[str]:
        """Return what the components read."""
        return frozenset().union(*(loss.activation_names() for loss in self.loss_funcs))

    def contains_loss_type(self, loss_type: type[BaseLoss]) -> bool:
        """Say whether this is, or holds, a loss of a type."""
        return isinstance(self, loss_type) or any(
            loss.contains_loss_type(loss_type) for loss in self.loss_funcs
        )

    def get_loss_log_dict(self) -> dict[str, float]:
        """Return the lowest loss and each component's; components of one class are numbered."""
        logged = super().get_loss_log_dict()
        for loss in self.loss_funcs:
            for name, value in loss.get_loss_log_dict().items():
                logged[_free_name(name, logged)] = value
        return logged


def _combine_flag(name: str) -> property:
    def get(self: CombinedLoss) -> bool:
        return any(getattr(loss, name) for loss in self.loss_funcs)

    return property(get, doc=f"Whether any component sets `{name}`.")


for _name in (*REQUIRE_OPTIONS, "require_gradients"):
    setattr(CombinedLoss, _name, _combine_flag(_name))


def _may_read(loss: BaseLoss, field: str) -> bool:
    reads = loss.reads()
    return reads.takes_all or bool({field, "model_output"} & reads.fields)


def _check_components(loss_funcs: Sequence[Any], weights: Sequence[float] | None) -> None:
    if not loss_funcs:
        raise ArgumentError("CombinedLoss needs at least one loss, got none.")
    for loss in loss_funcs:
        if not isinstance(loss, BaseLoss):
            raise RequirementError(f"CombinedLoss holds BaseLoss objects, got {loss!r}.")
    if weights is not None and len(weights) != len(loss_funcs):
        raise ArgumentError(
            f"CombinedLoss needs one weight for each of {len(loss_funcs)} losses, "
            f"got {list(weights)!r}."
        )


def _free_name(name: str, taken: dict[str, float]) -> str:
    names = (name if i == 1 else f"{name}#{i}" for i in range(1, len(taken) + 2))
    return next(candidate for candidate in names if candidate not in taken)


@functools.cache
def reads_of_signature(loss_type: type[BaseLoss]) -> LossReads:
    """Return what a loss class reads, by the parameters of its `__call__`.

    Raises:
        RequirementError: (a TypeError) If there is no signature to read.
    """
    try:
        parameters = list(inspect.signature(_unbound_call(loss_type)).parameters.values())[1:]
    except (TypeError, ValueError) as error:
        raise RequirementError(
            f"the signature of {loss_type.__name__}.__call__ cannot be read; it names what the "
            "loss reads. Define __call__ in Python, with one parameter for each field."
        ) from error
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return LossReads(
        required=frozenset(p.name for p in named if p.default is p.empty),
        optional=frozenset(p.name for p in named if p.default is not p.empty),
        takes_all=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _unbound_call(loss_type: type[BaseLoss]) -> Callable[..., Any]:
    return loss_type.__call__
