"""The law that nothing of the caller's is changed."""

from typing import Any

from pellucid.core import Flow, GradientTokenAccessMixin, TokenAccessMixin
from pellucid.testing._flows import FLOW_TYPES, LossFlow, TokenFlow
from pellucid.testing._laws import expect
from pellucid.testing._model_laws import ModelLaws
from pellucid.testing._purity import (
    copy_value,
    find_change,
    global_state,
    module_state,
    tokenizer_state,
    watched,
)


class PurityLaws(ModelLaws):
    """Generators, templates, targets, candidates, tokenizer and modules are as they were."""

    def test_nothing_of_the_callers_is_changed(self) -> None:
        """Calls, losses and gradients leave everything of the caller's alone."""
        model = self._model()
        given = {"templates": list(self.templates), "targets": self.make_targets(model)}
        with watched():
            before = self._take_down(model, given)
            self._use(model, given)
            changed = find_change(before, self._take_down(model, given))
        expect(not changed, f"{', '.join(changed)}: changed by use of the model.")

    def test_candidates_are_not_changed(self) -> None:
        """Candidates are as they were after losses and gradients."""
        model = self._model()
        for subject in self._flows(model):
            loss = self._probe(model, subject.flow)
            subject.set_inputs(list(self.templates), self.make_targets(model))
            candidates = subject.make_candidates(3)
            before = {"candidates": copy_value(candidates)}
            subject.compute(candidates, loss)
            if isinstance(subject, TokenFlow):
                self._differentiate(model, candidates)
            changed = find_change(before, {"candidates": copy_value(candidates)})
            expect(not changed, f"candidates in the flow {subject.flow.value!r} were changed.")

    def _flows(self, model: Any) -> list[LossFlow]:
        return [kind(model) for kind in FLOW_TYPES.values() if isinstance(model, kind.access)]

    def _use(self, model: Any, given: dict[str, Any]) -> None:
        self._invoke(model, self.texts)
        for subject in self._flows(model):
            loss = self._probe(model, subject.flow)
            subject.set_inputs(given["templates"], given["targets"])
            candidates = subject.make_candidates(3)
            subject.compute(candidates, loss)
            if isinstance(subject, TokenFlow):
                self._differentiate(model, candidates)

    def _differentiate(self, model: Any, candidates: Any) -> None:
        if isinstance(model, GradientTokenAccessMixin):
            loss = self._probe(model, Flow.TOKENS, differentiable=True)
            model.set_inputs_from_tokens(list(self.templates), self.make_targets(model))
            model.compute_grad_from_tokens(loss, candidates)

    def _take_down(self, model: Any, given: dict[str, Any]) -> dict[str, Any]:
        tokenizer = model.tokenizer if isinstance(model, TokenAccessMixin) else None
        return {
            **global_state(),
            **module_state(model),
            **({} if tokenizer is None else tokenizer_state(tokenizer)),
            **copy_value(given),
        }
