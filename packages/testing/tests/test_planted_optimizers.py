"""Each law of the suite of optimizers catches a defect that was planted for it."""

import random

import pytest
import torch
from law_runner import failure_of, laws_of
from reference_optimizer import ReferenceOptimizer

from pellucid.core import BaseOptimizer
from pellucid.testing import OptimizerContract


class ChecksNothing(ReferenceOptimizer):
    def __init__(self, model, loss, tracker=None, seed=None, **settings):
        self.model, self.loss, self.seed = model, loss, seed
        self.num_steps, self.n_candidates = 6, 8
        from pellucid.core import DummyTracker

        self.tracker = DummyTracker() if tracker is None else tracker


class ForgivesTemplates(ReferenceOptimizer):
    owns_life_cycle = True

    def optimize_trigger(self, templates, initial_trigger=None, targets=None):
        self.tracker.init({})
        self.tracker.finish({})
        return super().optimize_trigger(templates, initial_trigger, targets)


class ReturnsTheLast(ReferenceOptimizer):
    def conclude(self, losses, triggers, reason):
        result = super().conclude(losses, triggers, reason)
        result.best_loss += 1
        return result


class ForgetsTheSeed(ReferenceOptimizer):
    def conclude(self, losses, triggers, reason):
        result = super().conclude(losses, triggers, reason)
        result.seed = None
        return result


class ForgetsWhereItBegan(ReferenceOptimizer):
    def conclude(self, losses, triggers, reason):
        result = super().conclude(losses, triggers, reason)
        result.initial_loss = None
        return result


class NamesAnotherTrigger(ReferenceOptimizer):
    def conclude(self, losses, triggers, reason):
        result = super().conclude(losses, triggers, reason)
        result.best_trigger_ids = result.best_trigger_ids.flip(0)
        return result


class NeedsAStart(ReferenceOptimizer):
    def start(self, templates, initial_trigger, targets):
        super().start(templates, initial_trigger.strip(), targets)


class HistoryHoldsTheStart(ReferenceOptimizer):
    def conclude(self, losses, triggers, reason):
        return super().conclude([self.initial_loss, *losses], triggers, reason)


class GoesOnTooLong(ReferenceOptimizer):
    def conclude(self, losses, triggers, reason):
        return super().conclude(losses * 2, triggers * 2, reason)


class DrawsFromTheWorld(ReferenceOptimizer):
    def draw(self, stop):
        return torch.randint(stop, (self.n_candidates,))


class SeedsOnce(ReferenceOptimizer):
    def draw(self, stop):
        if not hasattr(self, "lasting"):
            self.lasting = self.random
        return torch.randint(stop, (self.n_candidates,), generator=self.lasting)


class LogsTwice(ReferenceOptimizer):
    def log(self, loss, trigger_str=None, **extra):
        super().log(loss, trigger_str, **extra)
        super().log(loss, trigger_str, **extra)


class KeepsInputs(ReferenceOptimizer):
    def _clear_inputs(self):
        pass


class HoldsItsOwnLife(ReferenceOptimizer):
    """Does by hand what the base does, and forgets what happens when a step fails."""

    owns_life_cycle = True

    def optimize_trigger(self, templates, initial_trigger=None, targets=None):
        self.tracker.init({})
        result = super().optimize_trigger.__wrapped__(self, templates, initial_trigger, targets)
        self._clear_inputs()
        self.tracker.finish({"status": "finished"})
        return result


class CallsInterruptsFailures(ReferenceOptimizer):
    def step(self):
        try:
            super().step()
        except KeyboardInterrupt:
            raise RuntimeError("stopped") from None


class BreaksForGood(ReferenceOptimizer):
    def step(self):
        if getattr(self, "is_broken", False):
            raise RuntimeError("broken")
        self.is_broken = True
        super().step()
        self.is_broken = False


class SeedsTheWorld(ReferenceOptimizer):
    def start(self, templates, initial_trigger, targets):
        random.seed(self.seed)
        super().start(templates, initial_trigger, targets)


class IgnoresItsBudget(ReferenceOptimizer):
    def is_budget_spent(self, elapsed_s=0.0):
        return False


class TakesAnyBudget(ReferenceOptimizer):
    def set_budget(self, limit, metric="total_tokens", scope="all"):
        if limit > 0:
            super().set_budget(limit, metric, scope)


class ProposesSpecials(ReferenceOptimizer):
    def propose(self):
        candidates = super().propose()
        candidates[0, 0] = self.model.tokenizer.all_special_ids[0]
        return candidates


DEFECTS = [
    (ChecksNothing, "test_a_model_without_access_is_refused", "DID NOT RAISE"),
    (ChecksNothing, "test_a_loss_without_gradient_is_refused", "DID NOT RAISE"),
    (ForgivesTemplates, "test_bad_templates_are_refused", "never began"),
    (ReturnsTheLast, "test_the_best_is_no_worse_than_the_start", "was seen"),
    (ForgetsTheSeed, "test_the_result_is_complete", "the seed is None"),
    (ForgetsWhereItBegan, "test_the_result_is_complete", "initial loss"),
    (NamesAnotherTrigger, "test_the_best_trigger_has_the_best_loss", "does not have"),
    (NeedsAStart, "test_a_run_may_choose_its_own_start", "NoneType"),
    (HistoryHoldsTheStart, "test_history_is_one_entry_a_step", "7 losses and 6 triggers"),
    (GoesOnTooLong, "test_history_is_one_entry_a_step", "12 losses in 6 steps"),
    (DrawsFromTheWorld, "test_one_seed_is_one_run", "same seed"),
    (SeedsOnce, "test_one_seed_is_one_run", "the same optimizer"),
    (LogsTwice, "test_a_run_records_itself", "12 records"),
    (KeepsInputs, "test_inputs_are_cleared", "_token_input_manager"),
    (HoldsItsOwnLife, "test_a_failure_leaves_nothing_behind", "_token_input_manager"),
    (CallsInterruptsFailures, "test_an_interrupt_leaves_nothing_behind", "stopped"),
    (BreaksForGood, "test_a_failed_run_can_be_followed_by_another", "broken"),
    (SeedsTheWorld, "test_nothing_of_the_callers_is_changed", "random's generator"),
    (DrawsFromTheWorld, "test_nothing_of_the_callers_is_changed", "torch's generator"),
    (IgnoresItsBudget, "test_a_budget_ends_a_run", "ended nothing"),
    (TakesAnyBudget, "test_a_budget_must_be_positive", "DID NOT RAISE"),
    (ProposesSpecials, "test_candidates_keep_the_constraint", "banned tokens: [0]"),
]


@pytest.mark.parametrize(
    ("optimizer", "law", "says"),
    DEFECTS,
    ids=[f"{optimizer.__name__}-{law}" for optimizer, law, _ in DEFECTS],
)
def test_planted_defect_is_caught(optimizer, law, says):
    def make_optimizer(suite, model, loss, seed):
        return optimizer(model, loss, seed=seed)

    said = failure_of(OptimizerContract, law, make_optimizer=make_optimizer)
    assert said is not None, f"{law} passes on {optimizer.__name__}"
    assert says in said


def test_every_law_has_a_defect():
    assert set(laws_of(OptimizerContract)) == {law for _, law, _ in DEFECTS}


def test_a_subject_of_another_kind_is_named():
    said = failure_of(
        OptimizerContract, "test_inputs_are_cleared", make_optimizer=lambda *_: object()
    )
    assert "must return a BaseOptimizer, got object" in said
    assert issubclass(ReferenceOptimizer, BaseOptimizer)
