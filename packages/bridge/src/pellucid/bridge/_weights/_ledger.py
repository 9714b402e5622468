"""Changes to a model's parameters that can be taken back to the bit."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._errors import ArchitectureError


class Ledger:
    """Writes parameters of a model and knows how to take it all back.

    Nothing is written in place: a parameter gets new numbers and the ledger keeps the old ones, so
    that views which were taken before, and copies that share memory, stay as they are. A parameter
    that several modules share becomes the module's own before it is written.

    Args:
        model: The model.

    Attributes:
        has_added: Whether a parameter has been added where there was none.
    """

    def __init__(self, model: nn.Module) -> None:
        # How many modules hold each parameter.
        self._n_owners = Counter(
            id(held) for module in model.modules() for held in module.parameters(recurse=False)
        )
        self._undo: list[Callable[[], None]] = []
        self.has_added = False

    def write(self, module: nn.Module, name: str, values: Tensor) -> None:
        """Give a parameter new numbers, converted to its dtype.

        Args:
            module: Whose parameter it is. Other modules that share it keep the old numbers.
            name: The parameter's name; a bias that is not there is added.
            values: The numbers.
        """
        held = find_own(module, name)
        if held is None:
            self.has_added = True
            like = find_own(module, "weight")
            self._replace(module, name, _make(values, values if like is None else like))
        elif self._n_owners[id(held)] > 1:
            self._replace(module, name, _make(values, held))
        else:
            self._set_data(held, _like(values, held))

    def set(self, holder: Any, name: str, value: Any) -> None:
        """Set an attribute of anything."""
        old = getattr(holder, name)
        setattr(holder, name, value)
        self._undo.append(lambda: setattr(holder, name, old))

    def undo(self) -> None:
        """Take back everything, last first."""
        while self._undo:
            self._undo.pop()()

    def _replace(self, module: nn.Module, name: str, made: nn.Parameter) -> None:
        old = find_own(module, name)
        self._n_owners.subtract([id(old)])
        self._n_owners[id(made)] = 1
        setattr(module, name, made)
        self._undo.append(lambda: setattr(module, name, old))

    def _set_data(self, parameter: nn.Parameter, values: Tensor) -> None:
        old = parameter.data
        parameter.data = values

        def undo() -> None:
            # The model may have been moved or converted since.
            parameter.data = old.to(parameter.device, parameter.dtype)

        self._undo.append(undo)


def find_own(module: nn.Module, name: str) -> nn.Parameter | None:
    """Return a parameter that a module itself holds, None if it holds none of this name."""
    return dict(module.named_parameters(recurse=False, remove_duplicate=False)).get(name)


def _make(values: Tensor, parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(_like(values, parameter), requires_grad=parameter.requires_grad)


def _like(values: Tensor, parameter: Tensor) -> Tensor:
    return values.detach().to(parameter.device, parameter.dtype).contiguous()


def read_exactly(module: nn.Module, name: str) -> Tensor:
    """Return a parameter in float64 (float32 on devices that have no other), in memory of its own.

    Raises:
        ArchitectureError: If it is not among the module's parameters: something derives it.
    """
    held = find_own(module, name)
    if held is None:
        raise ArchitectureError(
            f"{type(module).__name__}.{name} is derived from something else and cannot be written."
        )
    precise = torch.float32 if held.device.type == "mps" else torch.float64
    return held.detach().to(precise, copy=True)
