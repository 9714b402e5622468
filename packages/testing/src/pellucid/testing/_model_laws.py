"""What the conformance suites of all models share: the subject, its inputs, and its loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    Flow,
    GradientEmbedAccessMixin,
    LossResolutionError,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    ModelOutput,
    Targets,
    Template,
    check_compatibility,
)
from pellucid.testing._checked import checked
from pellucid.testing._flows import FLOW_TYPES, LossFlow
from pellucid.testing._laws import access_of, expect, expect_close, lack, require_access

_ACCESS_OF_FLOW: Mapping[Flow, type] = {
    Flow.TEXTS: LossTextAccessMixin,
    Flow.TOKENS: LossTokenAccessMixin,
    Flow.EMBEDS: GradientEmbedAccessMixin,
}


class ModelLaws(ABC):
    """The subject of a model's suite; a subclass of a suite gives `make_model` and no more.

    Attributes:
        templates: What triggers are filled into; two texts that differ in length.
        target_response_strs: A target response for each template.
        texts: What the model is called on.
        tolerance: How far two computations of one value may differ, relative and near 0 absolutely.
    """

    templates: Sequence[Template] = (
        "Say {{OPTIMIZED_TRIGGER}} now.",
        "The cat and I like {{OPTIMIZED_TRIGGER}}",
    )
    target_response_strs: Sequence[str] = ("yes you", "no")
    texts: Sequence[str] = ("The red cat", "hello")
    tolerance: float = 1e-4

    _base: ClassVar[type]
    _probes: ClassVar[tuple[BaseLoss, ...]]

    @abstractmethod
    def make_model(self) -> Any:
        """Return the model under test; called once for each law."""

    def make_targets(self, model: Any) -> Targets:
        """Return the targets of the templates, for a model."""
        del model
        return Targets(target_response_strs=list(self.target_response_strs))

    def _model(self) -> Any:
        model = self.make_model()
        expect(
            isinstance(model, self._base),
            f"make_model must return a {self._base.__name__}, got {type(model).__name__}.",
        )
        return checked(model, self._base, *access_of(model))

    def _flow(self, flow: Flow, model: Any = None) -> LossFlow:
        """Return the model in a flow, its inputs not set; skips if it has no such flow."""
        model = self._model() if model is None else model
        require_access(model, _ACCESS_OF_FLOW[flow])
        return FLOW_TYPES[flow](model)

    def _set_flow(self, flow: Flow, model: Any = None) -> LossFlow:
        """Return the model in a flow, its inputs set."""
        found = self._flow(flow, model)
        found.set_inputs(list(self.templates), self.make_targets(found.model))
        return found

    def _probe(self, model: Any, flow: Flow, *, differentiable: bool = False) -> BaseLoss:
        """Return a loss that the model provides for; skips if there is none."""
        for probe in self._probes:
            if differentiable and not probe.is_differentiable:
                continue
            if self._provides_for(model, flow, probe):
                return probe
        kind = "differentiable loss" if differentiable else "loss"
        return lack(model, f"provides for no {kind} of the suite in the flow {flow.value!r}")

    def _same(self, actual: Tensor, wanted: Tensor, otherwise: str) -> None:
        expect_close(actual, wanted, otherwise, tolerance=self.tolerance)

    def _provides_for(self, model: Any, flow: Flow, probe: BaseLoss) -> bool:
        if model.provides is not None and flow in model.provides:
            asker = SimpleNamespace(model_requirements=(_ACCESS_OF_FLOW[flow],))
            return check_compatibility(model, asker, probe).compatible
        if flow is Flow.EMBEDS:
            return self._provides_for(model, Flow.TOKENS, probe)
        trial = self._set_flow(flow, model)
        try:
            trial.compute(trial.make_candidates(1), probe)
        except LossResolutionError:
            return False
        finally:
            trial.reset_inputs()
        return True

    def _cheapest_options(self, model: Any) -> dict[str, bool]:
        """Return the fewest options under which a call on texts answers anything."""
        declared = (model.provides or {}).get(Flow.TEXTS) or {}

        def cost(options: tuple[str, ...]) -> tuple[bool, int]:
            return "require_target_prefill" in options, len(options)

        return dict.fromkeys(min(declared.values(), key=cost, default=()), True)

    def _invoke(self, model: Any, texts: Sequence[str]) -> ModelOutput:
        options = self._cheapest_options(model)
        if "require_target_prefill" in options:
            targets = self.make_targets(model).select_message(0)
            return model.invoke_from_texts(list(texts), message_targets=targets, **options)
        return model.invoke_from_texts(list(texts), **options)

    def _embed(self, model: Any, ids: Tensor) -> Tensor:
        matrix = model.embedding_matrix
        return matrix[ids.to(matrix.device)].detach()


def batch_size_of(model_output: Any, model_input: Any) -> int:
    """Return how many samples the containers of one forward pass hold."""
    for fields in (model_output.to_dict(), model_input.to_dict()):
        for value in fields.values():
            if isinstance(value, (torch.Tensor, list)):
                return len(value)
    raise AssertionError("neither the model's output nor its input holds anything of a batch.")
