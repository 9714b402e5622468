"""Every error that Pellucid raises on purpose.

All descend from `PellucidError`; each also is the builtin kind that its users would catch.
"""

import difflib
from collections.abc import Iterable
from typing import Any


class PellucidError(Exception):
    """The root of all errors that Pellucid raises."""


class ContainerError(PellucidError, ValueError, TypeError):
    """A container was given an unknown field, or a value of a wrong type, dtype, rank or length."""


class ContractError(PellucidError, TypeError, ValueError):
    """A value that crosses a package boundary breaks the contract's annotation."""


class ArgumentError(PellucidError, AssertionError, ValueError):
    """An argument, or a combination of arguments, has no meaning."""


class TemplateError(ArgumentError):
    """A template does not hold the trigger placeholder, or holds a wrong one."""


class RequirementError(PellucidError, AssertionError, TypeError):
    """A component lacks what another one requires of it."""


class NotDifferentiableError(RequirementError, ValueError):
    """A gradient was asked of a loss that has none."""


class InputsNotSetError(PellucidError, AssertionError, RuntimeError):
    """A compute method was called before the inputs it works on were set."""


class LossResolutionError(PellucidError, LookupError):
    """A loss reads a field that neither the model's output, its input nor the targets hold.

    Attributes:
        loss_name: Class name of the loss.
        parameter: Name of the field that is missing.
        available: Names of the fields that were there, per container.
    """

    def __init__(self, loss_name: str, parameter: str, available: dict[str, list[str]]) -> None:
        self.loss_name = loss_name
        self.parameter = parameter
        self.available = available
        held = "; ".join(
            f"{place}: {', '.join(names) or 'nothing'}" for place, names in available.items()
        )
        super().__init__(
            f"{loss_name} reads {parameter!r}, which is not there ({held}). "
            f"Use a model and a flow that provide {parameter!r}, or set it in Targets."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.loss_name, self.parameter, self.available)


class RetokenizationError(PellucidError, RuntimeError):
    """No candidate survives decoding and encoding again."""


class BudgetError(ArgumentError):
    """A budget is negative, zero, or of an unknown kind."""


class CheckpointError(PellucidError, ValueError):
    """A saved run cannot be read, or belongs to another configuration."""


class MissingDependencyError(PellucidError, ImportError):
    """A component is known, but the distribution that holds it is not installed."""


class UnknownNameError(PellucidError, ValueError, LookupError):
    """A name is not among those known; near matches are offered.

    Attributes:
        kind: What was looked up, such as "optimizer".
        name: The name that was asked for.
        known: The names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.known = sorted(known)
        super().__init__(f"unknown {kind} {name!r}. {self._advice()}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.name, self.known)

    def _advice(self) -> str:
        near = difflib.get_close_matches(self.name, self.known, n=3, cutoff=0.5)
        if near:
            return f"Did you mean {' or '.join(repr(name) for name in near)}?"
        return f"Known: {', '.join(self.known) or 'none'}."
