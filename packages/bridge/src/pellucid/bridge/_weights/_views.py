"""Where one weight stands among a module's parameters, in the shape that its users know."""

import dataclasses
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._names._views import View, Whole

Storage = Literal["out_in", "in_out", "vector"]
"""How a parameter is laid out.

out_in: (d_out, d_in), as torch's Linear. in_out: (d_in, d_out), as Conv1D and tables of embeddings.
vector: biases and norms. Leading axes, such as that of experts, stay in front.
"""

_WHOLE = Whole()


@runtime_checkable
class WeightSource(Protocol):
    """What a weight is read from."""

    def get(self) -> Tensor:
        """Return the weight as it is now, with a gradient to the parameters it is part of."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WeightView:
    """A part of one parameter, turned to (d_in, d_out) and split into heads.

    Attributes:
        module: Whose parameter it is.
        parameter: The parameter's name.
        storage: How it is laid out.
        view: Which part of its inputs or outputs.
        of_inputs: Whether the view is of its inputs, as heads of an output projection are.
        by_head: Whether the view shows heads, which then come first.
    """

    module: nn.Module
    parameter: str
    storage: Storage
    view: View = _WHOLE
    of_inputs: bool = False
    by_head: bool = False

    def get(self) -> Tensor:
        """Return the weight; a view of the parameter wherever torch can express one."""
        return self.read(read_parameter(self.module, self.parameter))

    def read(self, whole: Tensor) -> Tensor:
        """Return the weight out of a tensor of the parameter's shape."""
        part = self.view.get(self._turn(whole))
        if self.storage == "vector":
            return part
        if self.of_inputs:
            return part.movedim(-3, -1) if self.by_head else part.mT
        return part.movedim(-2, -3) if self.by_head else part

    def place(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return a tensor of the parameter's shape with the weight replaced."""
        if self.storage != "vector":
            if self.of_inputs:
                part = part.movedim(-1, -3) if self.by_head else part.mT
            elif self.by_head:
                part = part.movedim(-3, -2)
        return self._turn(self.view.put(self._turn(whole), part))

    def _turn(self, whole: Tensor) -> Tensor:
        """Bring the axis that the view is of to the end, or back."""
        if self.storage == "vector":
            return whole
        return whole.mT if (self.storage == "out_in") is not self.of_inputs else whole


@dataclasses.dataclass(frozen=True, eq=False)
class StackedViews:
    """The same weight of several modules, such as experts, along a new first axis."""

    views: tuple[WeightView, ...]

    def get(self) -> Tensor:
        """Return the weights, stacked."""
        return torch.stack([view.get() for view in self.views])


def read_parameter(module: Any, name: str) -> Tensor:
    """Return a parameter of a module.

    Raises:
        ArchitectureError: If it is quantised, kept elsewhere, or changed by an adapter on its way.
    """
    kind = type(module).__name__
    if hasattr(module, "base_layer"):
        raise ArchitectureError(
            f"{kind} adds an adapter's weights to its own. Merge the adapter into the model first."
        )
    found = getattr(module, name, None)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise ArchitectureError(
            f"{kind}.{name} holds no plain numbers: it may be quantised. Load the model without "
            "quantisation to read its weights."
        )
    if found.device.type == "meta":
        raise ArchitectureError(
            f"{kind}.{name} is kept elsewhere while it is not used. Load the model onto one device "
            "to read its weights."
        )
    return found


def storage_of(module: nn.Module) -> Storage:
    """Return how a projection or a table keeps its weight."""
    # transformers' Conv1D, which GPT-2 uses, keeps its weight as tables of embeddings do.
    is_turned = isinstance(module, nn.Embedding) or type(module).__name__ == "Conv1D"
    return "in_out" if is_turned else "out_in"


def has_parameter(module: nn.Module | None, name: str) -> bool:
    """Say whether a module has a parameter, quantised ones included."""
    return getattr(module, name, None) is not None
