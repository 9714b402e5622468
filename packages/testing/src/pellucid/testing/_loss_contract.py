"""The conformance suite of losses."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    CombinedLoss,
    LossResolutionError,
    MessageTargets,
    ModelInput,
    ModelOutput,
    resolve_and_compute_loss,
)
from pellucid.testing._checked import checked
from pellucid.testing._laws import expect, expect_close, lack
from pellucid.testing._purity import copy_value, find_change, global_state, watched

_OUTPUTS, _INPUTS, _TARGETS = (
    frozenset(inspect.get_annotations(kind)) for kind in (ModelOutput, ModelInput, MessageTargets)
)
_WHOLE = frozenset({"model_output", "model_input"})

# By the type of the losses: how far a finite difference reaches, and how far it may be off.
_STEPS = {torch.float64: (1e-5, 1e-5), torch.float32: (1e-2, 3e-2)}


class LossContract(ABC):
    """What every loss keeps; name a subclass `Test...`, give `make_loss` and `make_fields`.

    Attributes:
        tolerance: How far two computations of one value may differ, relative and near 0 absolutely.
    """

    tolerance: float = 1e-4

    @abstractmethod
    def make_loss(self) -> BaseLoss:
        """Return the loss under test."""

    @abstractmethod
    def make_fields(self) -> Mapping[str, Any]:
        """Return what the loss reads, by field, for two samples or more, all of them different.

        Fields are those of `ModelOutput`, `ModelInput` and `MessageTargets`; floats in float32.
        """

    def test_each_sample_has_a_finite_loss(self) -> None:
        """The loss is one finite float for each sample."""
        losses = self._compute(self.make_fields())
        wanted = (self._batch_size(),)
        expect(losses.shape == wanted, f"losses are {tuple(losses.shape)}, expected {wanted}.")
        expect(bool(losses.isfinite().all()), f"losses are not finite: {losses}.")

    def test_arithmetic_is_wide(self) -> None:
        """From bfloat16 fields comes float32, as exact as from the same numbers in float32."""
        fields = self.make_fields()
        if not _floats(fields):
            lack(self.make_loss(), "reads no floats")
        narrow = _cast(fields, torch.bfloat16)
        losses = self._compute(narrow)
        expect(losses.dtype in _STEPS, f"losses are {losses.dtype}, expected float32 or wider.")
        wide = self._compute(_cast(narrow, torch.float32))
        self._same(losses, wide, "Losses in bfloat16 lose precision on the way.")

    def test_order_of_samples_changes_nothing(self) -> None:
        """Samples in another order have their losses in that order."""
        fields = self.make_fields()
        order = [*range(1, self._batch_size()), 0]
        losses = self._compute(fields)
        turned = self._compute(_take(fields, order))
        self._same(turned, losses[order], "Losses do not follow their samples.")

    def test_samples_are_independent(self) -> None:
        """A sample's loss does not depend on the samples beside it."""
        fields = self.make_fields()
        losses = self._compute(fields)
        for row in range(self._batch_size()):
            alone = self._compute(_take(fields, [row]))
            self._same(alone, losses[row : row + 1], f"Sample {row} has another loss alone.")

    def test_losses_differ_between_samples(self) -> None:
        """The fields matter: samples that differ do not all have one loss."""
        losses = self._compute(self.make_fields())
        expect(len(losses.unique()) > 1, f"every sample has the loss {losses[0]}.")

    def test_losses_repeat(self) -> None:
        """The same fields have the same losses, and nothing is remembered."""
        loss, fields = self._loss(), self.make_fields()
        first, second = (_resolve(loss, fields) for _ in range(2))
        expect(torch.equal(first, second), "the second computation differs from the first.")

    def test_gradient_is_the_slope(self) -> None:
        """Gradients equal finite differences, where the loss says that it has any."""
        loss = self._loss()
        if not loss.is_differentiable:
            lack(loss, "is not differentiable")
        fields = _cast(self.make_fields(), torch.float64)
        names = [name for name in _floats(fields) if name in _OUTPUTS | _INPUTS]
        expect(bool(names), "a differentiable loss must read a float of the model's output.")
        slopes = [self._check_slope(fields, name) for name in names]
        expect(any(slopes), f"the gradient is 0 with regard to each of {names}.")

    def test_reads_name_the_fields(self) -> None:
        """What the loss reads is among the fields, and is what its signature names."""
        loss, fields = self._loss(), self.make_fields()
        reads = loss.reads()
        missing = reads.required - fields.keys() - _WHOLE
        expect(not missing, f"{sorted(missing)} are read, and make_fields does not give them.")
        unknown = fields.keys() - _OUTPUTS - _INPUTS - _TARGETS
        expect(not unknown, f"{sorted(unknown)} are fields of no container.")
        if isinstance(loss, CombinedLoss):
            return  # reads what its components read
        parameters = list(inspect.signature(type(loss).__call__).parameters.values())[1:]
        named = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        expect(
            named <= reads.fields, f"{sorted(named - reads.fields)} are parameters, and not read."
        )

    def test_a_missing_field_is_named(self) -> None:
        """Without a field that the loss requires, the error names the field."""
        loss = self._loss()
        for name in sorted(loss.reads().required - _WHOLE):
            fields = {held: value for held, value in self.make_fields().items() if held != name}
            with pytest.raises(LossResolutionError, match=name) as caught:
                _resolve(loss, fields)
            expect(
                caught.value.parameter == name,
                f"without {name!r}, the error names {caught.value.parameter!r}.",
            )

    def test_optional_fields_are_optional(self) -> None:
        """The loss can be computed from what it requires alone."""
        loss, fields = self._loss(), self.make_fields()
        reads = loss.reads()
        optional = (reads.optional & fields.keys()) - reads.required
        if not optional:
            lack(loss, "has no optional field among those of make_fields")
        required = {name: held for name, held in fields.items() if name not in optional}
        _resolve(loss, required)

    def test_options_are_flags(self) -> None:
        """What the forward pass must do is told by plain booleans."""
        loss = self._loss()
        options = loss.options()
        expect(
            all(isinstance(held, bool) for held in options.values()), f"options are {options!r}."
        )
        expect(loss.contains_loss_type(type(self.make_loss())), "a loss contains its own type.")

    def test_latest_losses_are_logged(self) -> None:
        """The lowest loss of the latest batch is logged."""
        loss = self._loss()
        expect(loss.get_loss_log_dict() == {}, "losses are logged before the first is computed.")
        lowest = float(_resolve(loss, self.make_fields()).min())
        logged = loss.get_loss_log_dict()
        expect(
            any(
                abs(held - lowest) <= self.tolerance * max(1, abs(lowest))
                for held in logged.values()
            ),
            f"the lowest loss {lowest} is not among {logged}.",
        )

    def test_fields_are_not_changed(self) -> None:
        """Fields and generators are as they were."""
        loss, fields = self._loss(), dict(self.make_fields())
        with watched():
            before = {**copy_value(fields), **global_state()}
            _resolve(loss, fields)
            changed = find_change(before, {**copy_value(fields), **global_state()})
        expect(not changed, f"{', '.join(changed)}: changed by the loss.")

    def _loss(self) -> Any:
        return checked(self.make_loss(), BaseLoss)

    def _compute(self, fields: Mapping[str, Any]) -> Tensor:
        return _resolve(self._loss(), fields).detach()

    def _batch_size(self) -> int:
        fields = self.make_fields()
        sizes = {len(fields[name]) for name in _batched(fields)}
        expect(
            len(sizes) == 1 and sizes.pop() >= 2,
            "make_fields must hold two samples or more, as many in each field.",
        )
        return len(next(fields[name] for name in _batched(fields)))

    def _same(self, actual: Tensor, wanted: Tensor, otherwise: str) -> None:
        expect_close(actual, wanted, otherwise, tolerance=self.tolerance)

    def _check_slope(self, fields: Mapping[str, Any], name: str) -> bool:
        """Hold one field's gradient against a finite difference; say whether it is not 0."""
        point = fields[name].detach().requires_grad_()
        losses = _resolve(self._loss(), {**fields, name: point})
        if not losses.requires_grad:
            return False
        (grad,) = torch.autograd.grad(losses.sum(), point, allow_unused=True)
        if grad is None:
            return False
        expect(bool(grad.isfinite().all()), f"the gradient with regard to {name} is not finite.")
        step, tolerance = _STEPS[losses.dtype]
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(point.shape, generator=generator).to(point)
        ahead, behind = (
            self._compute({**fields, name: (point + s * step * direction).detach()})
            for s in (1, -1)
        )
        difference = (ahead - behind).double() / (2 * step)
        exact = (grad * direction).flatten(1).sum(dim=1).double()
        size = grad.flatten(1).norm(dim=1).double().clamp(min=1e-9)
        message = f"The gradient with regard to {name} is not the slope of the loss."
        expect_close(exact / size, difference / size, message, tolerance=tolerance)
        return bool((grad != 0).any())


def _resolve(loss: BaseLoss, fields: Mapping[str, Any]) -> Tensor:
    def pick(names: frozenset[str]) -> dict[str, Any]:
        return {name: held for name, held in fields.items() if name in names}

    targets = MessageTargets(**pick(_TARGETS))
    model_input = ModelInput(**pick(_INPUTS - {"message_targets"}), message_targets=targets)
    return resolve_and_compute_loss(ModelOutput(**pick(_OUTPUTS)), model_input, loss)


def _batched(fields: Mapping[str, Any]) -> list[str]:
    """Return the names of the fields that have an entry for each sample."""
    return [
        name
        for name, held in fields.items()
        if name in _OUTPUTS | _INPUTS and isinstance(held, (Tensor, list))
    ]


def _floats(fields: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, held in fields.items()
        if isinstance(held, Tensor) and held.is_floating_point()
    ]


def _take(fields: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Return the fields of some samples."""
    batched = _batched(fields)

    def select(held: Any) -> Any:
        return held[list(rows)] if isinstance(held, Tensor) else [held[row] for row in rows]

    return {name: select(held) if name in batched else held for name, held in fields.items()}


def _cast(fields: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    floats = _floats(fields)
    return {name: held.to(dtype) if name in floats else held for name, held in fields.items()}
