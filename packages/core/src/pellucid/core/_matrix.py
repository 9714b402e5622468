"""Every registered model, optimizer and loss, and whether they go together."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.core._capabilities import CompatibilityReport, check_compatibility
from pellucid.core._errors import MissingDependencyError, RequirementError
from pellucid.core._registry import load, names


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatrixCell:
    """A model, an optimizer and a loss by the names they are registered under.

    Attributes:
        model: The model's name.
        optimizer: The optimizer's name.
        loss: The loss's name.
        report: Whether the three go together, and why not.
    """

    model: str
    optimizer: str
    loss: str
    report: CompatibilityReport


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompatibilityMatrix:
    """What `compatibility_matrix` returns.

    Attributes:
        models: The model classes by registered name, sorted.
        optimizers: The optimizer classes.
        losses: The loss classes.
        cells: One for each triple, models before optimizers before losses.
        unavailable: Registered names that were left out, and why; "model litellm", say.
    """

    models: Mapping[str, Any]
    optimizers: Mapping[str, Any]
    losses: Mapping[str, Any]
    cells: tuple[MatrixCell, ...]
    unavailable: Mapping[str, str]

    def cell(self, model: str, optimizer: str, loss: str) -> MatrixCell:
        """Return one cell.

        Raises:
            KeyError: If a name is not in the matrix.
        """
        places = (list(self.models), list(self.optimizers), list(self.losses))
        row = 0
        for held, name in zip(places, (model, optimizer, loss), strict=True):
            if name not in held:
                raise KeyError(name)
            row = row * len(held) + held.index(name)
        return self.cells[row]


def compatibility_matrix(
    *,
    models: Sequence[str] | None = None,
    optimizers: Sequence[str] | None = None,
    losses: Sequence[str] | None = None,
) -> CompatibilityMatrix:
    """Compare what is registered, by declarations alone; nothing is loaded or computed.

    Args:
        models: Registered names; all when omitted. A name that is given must be importable, one
            that is not may be left out.
        optimizers: Likewise.
        losses: Likewise.

    Raises:
        UnknownNameError: If a name is not registered.
        MissingDependencyError: If what a name stands for cannot be imported here.
        RequirementError: If a name stands for anything but a class.
    """
    unavailable: dict[str, str] = {}
    parts = [
        _load_classes(group, chosen, unavailable)
        for group, chosen in (
            ("model", models),
            ("optimizer", optimizers),
            ("loss", losses),
        )
    ]
    cells = tuple(
        MatrixCell(
            model=model,
            optimizer=optimizer,
            loss=loss,
            report=check_compatibility(parts[0][model], parts[1][optimizer], parts[2][loss]),
        )
        for model in parts[0]
        for optimizer in parts[1]
        for loss in parts[2]
    )
    return CompatibilityMatrix(
        models=parts[0],
        optimizers=parts[1],
        losses=parts[2],
        cells=cells,
        unavailable=unavailable,
    )


def _load_classes(
    kind: str, chosen: Sequence[str] | None, unavailable: dict[str, str]
) -> dict[str, Any]:
    group = "pellucid.losses" if kind == "loss" else f"pellucid.{kind}s"
    found: dict[str, Any] = {}
    for name in sorted(set(names(group) if chosen is None else chosen)):
        try:
            part = load(group, name)
        except MissingDependencyError as error:
            if chosen is not None:
                raise
            unavailable[f"{kind} {name}"] = str(error)
            continue
        if not isinstance(part, type):
            raise RequirementError(
                f"the {kind} {name!r} is registered as {part!r}, which is no class and declares "
                "nothing. Register a class."
            )
        found[name] = part
    return found
