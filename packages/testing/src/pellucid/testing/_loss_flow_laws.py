"""Laws of computing losses, in either flow: batches, templates, errors, NaN."""

import inspect
from typing import Any

import pytest
import torch

from pellucid.core import (
    Flow,
    InputsNotSetError,
    MessageTargets,
    PellucidError,
    Targets,
    TemplateError,
)
from pellucid.testing._flows import FLOWS
from pellucid.testing._laws import change_loss, expect, lack
from pellucid.testing._model_laws import ModelLaws

_IN_EACH_FLOW = pytest.mark.parametrize("flow", FLOWS, ids=str)

_N_CANDIDATES = 5
_TARGET_FIELDS = frozenset(inspect.get_annotations(MessageTargets))

_BAD_TEMPLATES: dict[str, Any] = {
    "no placeholder": ["Say something."],
    "numbered and not": ["{{OPTIMIZED_TRIGGER}} and {{OPTIMIZED_TRIGGER_1}}"],
    "a number of no part": ["{{OPTIMIZED_TRIGGER_0}} and more"],
    "one good, one without": ["Say {{OPTIMIZED_TRIGGER}}", "nothing here"],
    "no template": [],
    "a text, not a list": "Say {{OPTIMIZED_TRIGGER}}",
}


class LossFlowLaws(ModelLaws):
    """Losses of candidates, given as texts or as tokens."""

    @_IN_EACH_FLOW
    def test_losses_have_one_value_for_each_candidate(self, flow: Flow) -> None:
        """Losses are floats in float32 or wider, without a graph, of shape (n_candidates,)."""
        subject, loss, candidates = self._prepare_losses(flow)
        losses = subject.compute(candidates, loss)
        expect(losses.shape == (_N_CANDIDATES,), f"losses have shape {tuple(losses.shape)}.")
        expect(losses.dtype in (torch.float32, torch.float64), f"losses are {losses.dtype}.")
        expect(not losses.requires_grad, "losses carry a graph.")
        expect(bool(losses.isfinite().all()), f"losses are not finite: {losses}.")

    @_IN_EACH_FLOW
    def test_mean_over_templates(self, flow: Flow) -> None:
        """The loss is the mean of the templates' rows, which `keep_message_dim` keeps."""
        subject, loss, candidates = self._prepare_losses(flow)
        rows = subject.compute(candidates, loss, keep=True)
        wanted = (len(self.templates), _N_CANDIDATES)
        expect(rows.shape == wanted, f"rows have shape {tuple(rows.shape)}, expected {wanted}.")
        mean = subject.compute(candidates, loss)
        self._same(mean, rows.mean(dim=0), "The loss is not the mean over templates.")

    @_IN_EACH_FLOW
    def test_each_template_is_on_its_own(self, flow: Flow) -> None:
        """A template's losses do not depend on the templates beside it."""
        subject, loss, candidates = self._prepare_losses(flow)
        rows = subject.compute(candidates, loss, keep=True)
        for i, template in enumerate(self.templates):
            subject.set_inputs([template], self.make_targets(subject.model).select_indices([i]))
            alone = subject.compute(candidates, loss)
            self._same(alone, rows[i], f"Template {i} has other losses alone.")

    @_IN_EACH_FLOW
    def test_batch_composition_changes_nothing(self, flow: Flow) -> None:
        """A candidate's loss does not depend on the candidates beside it."""
        subject, loss, candidates = self._prepare_losses(flow)
        together = subject.compute(candidates, loss)
        for row in range(_N_CANDIDATES):
            alone = subject.compute(subject.take(candidates, [row]), loss)
            self._same(alone, together[row : row + 1], f"Candidate {row} has another loss alone.")

    @_IN_EACH_FLOW
    def test_candidate_order_changes_nothing(self, flow: Flow) -> None:
        """Candidates in another order have their losses in that order."""
        subject, loss, candidates = self._prepare_losses(flow)
        order = [*range(1, _N_CANDIDATES), 0]
        losses = subject.compute(candidates, loss)
        turned = subject.compute(subject.take(candidates, order), loss)
        self._same(turned, losses[order], "Losses do not follow their candidates.")

    @_IN_EACH_FLOW
    def test_chunk_size_changes_nothing(self, flow: Flow) -> None:
        """Candidates evaluated a few at a time have the same losses."""
        subject, loss, candidates = self._prepare_losses(flow)
        whole = subject.compute(candidates, loss)
        for size in (1, 2, _N_CANDIDATES + 1):
            subject.model._forward_pass_batch_size = size
            self._same(subject.compute(candidates, loss), whole, f"Chunks of {size} differ.")

    @_IN_EACH_FLOW
    def test_duplicates_share_a_loss(self, flow: Flow) -> None:
        """A candidate that occurs twice has one loss, and is not left out."""
        subject, loss, candidates = self._prepare_losses(flow)
        losses = subject.compute(subject.take(candidates, [0, 1, 0]), loss)
        expect(losses.shape == (3,), f"three candidates have losses {tuple(losses.shape)}.")
        self._same(losses[2], losses[0], "One candidate has two losses.")

    @_IN_EACH_FLOW
    def test_losses_differ_between_candidates(self, flow: Flow) -> None:
        """The trigger reaches the model: different candidates have different losses."""
        subject, loss, candidates = self._prepare_losses(flow)
        losses = subject.compute(candidates, loss)
        expect(len(losses.unique()) > 1, "all candidates have one loss; is the trigger filled in?")

    @_IN_EACH_FLOW
    def test_targets_differ_between_templates(self, flow: Flow) -> None:
        """Each template is held to its own target: swapped targets change the losses."""
        subject, loss, candidates = self._prepare_losses(flow)
        if not loss.reads().fields & _TARGET_FIELDS:
            lack(subject.model, "provides for no loss of the suite that reads targets")
        rows = subject.compute(candidates, loss, keep=True)
        order = list(reversed(range(len(self.templates))))
        targets = self.make_targets(subject.model).select_indices(order)
        subject.set_inputs(list(self.templates), targets)
        swapped = subject.compute(candidates, loss, keep=True)
        expect(not torch.allclose(rows, swapped), "the losses do not depend on the targets.")

    @_IN_EACH_FLOW
    def test_samples_are_counted(self, flow: Flow) -> None:
        """Each candidate in each template counts as a sample, however they are batched."""
        subject, loss, candidates = self._prepare_losses(flow)
        subject.compute(candidates, loss)  # what is prepared at first is not counted here
        due = len(self.templates) * _N_CANDIDATES
        for size in (1, _N_CANDIDATES):
            subject.model._forward_pass_batch_size = size
            subject.model.reset_usage_stats()
            subject.compute(candidates, loss)
            stats = subject.model.get_usage_stats()
            counted = stats["forward_samples"]
            expect(
                counted >= due and counted % due == 0 and stats["forward_calls"] <= counted,
                f"{due} samples in batches of {size} counted as {stats}.",
            )

    @_IN_EACH_FLOW
    def test_nan_never_wins(self, flow: Flow) -> None:
        """A loss that is NaN is returned as +inf; other candidates keep theirs."""
        subject, loss, candidates = self._prepare_losses(flow)
        clean = subject.compute(candidates, loss)
        subject.model._forward_pass_batch_size = _N_CANDIDATES

        def spoil(losses: torch.Tensor) -> torch.Tensor:
            rows = torch.arange(len(losses), device=losses.device)
            return torch.where(rows == 1, torch.nan, losses)

        spoilt = subject.compute(candidates, change_loss(loss, spoil))
        expect(not bool(spoilt.isnan().any()), f"NaN was returned: {spoilt}.")
        # Which candidate is in the second row of a batch is the model's own affair.
        lost = spoilt == torch.inf
        expect(int(lost.sum()) == 1, f"one NaN became {spoilt}, expected +inf in its place.")
        self._same(spoilt[~lost], clean[~lost], "A NaN beside it changed a loss.")

    @_IN_EACH_FLOW
    def test_inputs_must_be_set(self, flow: Flow) -> None:
        """Losses before templates are set, or after they are reset, are an error that says so."""
        model = self._model()
        subject, loss = self._flow(flow, model), self._probe(model, flow)
        candidates = subject.make_candidates(1)
        subject.reset_inputs()
        for _ in range(2):
            with pytest.raises(InputsNotSetError):
                subject.compute(candidates, loss)
            subject.set_inputs(list(self.templates), self.make_targets(subject.model))
            subject.compute(candidates, loss)
            subject.reset_inputs()

    @_IN_EACH_FLOW
    def test_no_candidates_are_refused(self, flow: Flow) -> None:
        """Losses of no candidate at all are an error, not an empty tensor."""
        subject, loss, candidates = self._prepare_losses(flow)
        with pytest.raises(PellucidError):
            subject.compute(candidates[:0], loss)

    @_IN_EACH_FLOW
    @pytest.mark.parametrize("kind", _BAD_TEMPLATES)
    def test_bad_templates_are_refused(self, flow: Flow, kind: str) -> None:
        """Templates without a placeholder, or with a wrong one, are an error at once."""
        subject = self._flow(flow)
        with pytest.raises(TemplateError):
            subject.set_inputs(_BAD_TEMPLATES[kind], None)

    @_IN_EACH_FLOW
    def test_fewer_targets_are_refused(self, flow: Flow) -> None:
        """Targets that do not match the templates in number are an error at once."""
        subject = self._flow(flow)
        with pytest.raises(TemplateError):
            subject.set_inputs(list(self.templates), Targets(target_response_strs=["yes"]))

    def _prepare_losses(self, flow: Flow) -> tuple[Any, Any, Any]:
        """Return the model in a flow with inputs set, a loss, and candidates."""
        model = self._model()
        subject = self._flow(flow, model)
        loss = self._probe(model, flow)
        subject.set_inputs(list(self.templates), self.make_targets(subject.model))
        return subject, loss, subject.make_candidates(_N_CANDIDATES)
