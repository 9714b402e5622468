"""The conformance suite of optimizers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

from pellucid.core import (
    BaseLoss,
    BaseModel,
    BaseOptimizer,
    BaseTracker,
    BudgetError,
    Flow,
    LMBaseModel,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    ModelOutput,
    NotDifferentiableError,
    OptimizerResult,
    RequirementError,
    Targets,
    Template,
    TemplateError,
    TextAccessMixin,
    TokenAccessMixin,
    as_tokenizer,
    flows_of,
    needs_gradient,
)
from pellucid.testing._checked import checked
from pellucid.testing._laws import access_of, change_loss, expect, expect_close, lack
from pellucid.testing._purity import copy_value, find_change, global_state, watched
from pellucid.testing._tiny_lm import TinyLM
from pellucid.testing._tiny_losses import TinyResponseLoss


class OptimizerContract(ABC):
    """What every optimizer keeps; name a subclass `Test...` and give `make_optimizer`.

    Runs should be short: half a dozen steps of a handful of candidates show all there is to show.

    Attributes:
        templates: What triggers are filled into.
        target_response_strs: A target response for each template.
        initial_trigger: Where runs start.
        tolerance: How far two computations of one loss may differ, relative and near 0 absolutely.
    """

    templates: Sequence[Template] = (
        "Say {{OPTIMIZED_TRIGGER}} now.",
        "I like {{OPTIMIZED_TRIGGER}}",
    )
    target_response_strs: Sequence[str] = ("yes you", "no")
    initial_trigger: str | None = "! ! ! !"
    tolerance: float = 1e-4

    @abstractmethod
    def make_optimizer(self, model: Any, loss: BaseLoss, seed: int) -> Any:
        """Return the optimizer under test, for a model and a loss; silent, and with no tracker."""

    def make_model(self) -> Any:
        """Return the model to optimize against; a `TinyLM` unless a subclass says otherwise."""
        return TinyLM(seed=0)

    def make_loss(self) -> BaseLoss:
        """Return the loss to lower; that of a target response unless a subclass says otherwise."""
        return TinyResponseLoss()

    def make_targets(self) -> Targets:
        """Return the targets of the templates."""
        return Targets(target_response_strs=list(self.target_response_strs))

    def test_a_model_without_access_is_refused(self) -> None:
        """A model that lacks what the optimizer requires is refused at construction, by name."""
        required = self._optimizer().model_requirements
        if not required:
            lack(self._optimizer(), "requires nothing of a model")
        with pytest.raises(RequirementError) as caught:
            self.make_optimizer(_BareModel(), self.make_loss(), 0)
        named = [mixin.__name__ for mixin in required if mixin.__name__ in str(caught.value)]
        expect(bool(named), f"the error names no access that is missing: {caught.value}")

    def test_a_loss_without_gradient_is_refused(self) -> None:
        """An optimizer that takes gradients refuses a loss that has none, at construction."""
        if not needs_gradient(self._optimizer().model_requirements):
            lack(self._optimizer(), "takes no gradients")
        flat = change_loss(self.make_loss(), lambda losses: losses.detach())
        type(flat).is_differentiable = False
        with pytest.raises(NotDifferentiableError):
            self.make_optimizer(self._model(), flat, 0)

    def test_bad_templates_are_refused(self) -> None:
        """A template without the placeholder ends the run before it begins."""
        optimizer, tracker = self._tracked()
        for templates in (["Say something."], []):
            with pytest.raises(TemplateError):
                optimizer.optimize_trigger(templates, self.initial_trigger, None)
        with pytest.raises(TemplateError):
            optimizer.optimize_trigger(
                list(self.templates), self.initial_trigger, self._odd_targets()
            )
        expect(not tracker.events, f"a run was recorded that never began: {tracker.events}.")

    def test_the_best_is_no_worse_than_the_start(self) -> None:
        """The best loss is the lowest seen, that of the initial trigger included."""
        result = self._run(self._optimizer())
        seen = [*result.losses, *([] if result.initial_loss is None else [result.initial_loss])]
        slack = self.tolerance * max(1.0, abs(result.best_loss))
        expect(
            result.best_loss <= min(seen, default=result.best_loss) + slack,
            f"the best loss is {result.best_loss}, and {min(seen, default=0)} was seen.",
        )

    def test_the_result_is_complete(self) -> None:
        """A result tells what was found, from where, why the run ended, and what it used."""
        result = self._run(self._optimizer(seed=7))
        found = (result.best_trigger_str, result.best_trigger_ids, result.best_trigger_emb)
        expect(any(held is not None for held in found), "the result holds no trigger.")
        expect(result.best_loss < float("inf"), f"the best loss is {result.best_loss}.")
        expect(result.initial_loss is not None, "the initial loss is missing.")
        expect(bool(result.stop_reason), "the reason why the run ended is missing.")
        expect(result.seed == 7, f"the seed is {result.seed}, expected 7.")
        expect(result.usage.get("total_tokens", 0) > 0, f"usage is {result.usage}.")

    def test_the_best_trigger_has_the_best_loss(self) -> None:
        """Evaluated anew, the best trigger has the loss that the result says."""
        optimizer = self._optimizer()
        result = self._run(optimizer)
        expect_close(
            self._evaluate(optimizer, result),
            torch.tensor([result.best_loss]),
            "The best trigger does not have the best loss.",
            tolerance=self.tolerance,
        )

    def test_a_run_may_choose_its_own_start(self) -> None:
        """Without an initial trigger, the optimizer begins where it likes."""
        result = self._optimizer().optimize_trigger(list(self.templates), None, self.make_targets())
        expect(result.best_loss < float("inf"), f"the best loss is {result.best_loss}.")

    def test_history_is_one_entry_a_step(self) -> None:
        """There are as many losses as triggers, and no more than steps."""
        optimizer = self._optimizer()
        result = self._run(optimizer)
        n_losses, n_triggers = len(result.losses), len(result.trigger_strs)
        expect(n_losses == n_triggers, f"{n_losses} losses and {n_triggers} triggers.")
        limit = getattr(optimizer, "num_steps", None)
        expect(limit is None or n_losses <= limit, f"{n_losses} losses in {limit} steps.")

    def test_one_seed_is_one_run(self) -> None:
        """With one seed, two optimizers take the same steps, and so does one of them twice."""
        optimizer = self._optimizer(seed=3)
        first, again = self._run(optimizer), self._run(optimizer)
        torch.rand(1)  # a run that drew from the global generator would now take other steps
        other = self._run(self._optimizer(seed=3))
        for result, who in ((other, "another optimizer"), (again, "the same optimizer")):
            expect(
                result.trigger_strs == first.trigger_strs and result.losses == first.losses,
                f"{who} with the same seed took other steps.",
            )

    def test_a_run_records_itself(self) -> None:
        """The tracker sees one run: begun, one record a step, finished."""
        optimizer, tracker = self._tracked()
        result = self._run(optimizer)
        tracker.expect_one_run("finished")
        expect(
            len(tracker.steps) == len(result.losses),
            f"{len(tracker.steps)} records of {len(result.losses)} steps.",
        )
        lacking = [record for record in tracker.steps if not {"loss", "best_loss"} <= record.keys()]
        expect(not lacking, f"a step's record lacks loss or best_loss: {lacking[:1]}.")

    def test_inputs_are_cleared(self) -> None:
        """After a run the models hold no templates."""
        optimizer = self._optimizer()
        self._run(optimizer)
        self._expect_cleared(optimizer)

    def test_a_failure_leaves_nothing_behind(self) -> None:
        """After an error inside a run, inputs are cleared and the tracker is finished."""
        self._check_aborted(ZeroDivisionError, "failed")

    def test_an_interrupt_leaves_nothing_behind(self) -> None:
        """After Ctrl-C inside a run, inputs are cleared and the tracker is finished."""
        self._check_aborted(KeyboardInterrupt, "interrupted")

    def test_a_failed_run_can_be_followed_by_another(self) -> None:
        """An optimizer whose run failed runs again."""
        loss = _failing(self.make_loss(), ZeroDivisionError, after=len(self.templates) + 1)
        optimizer = checked(self.make_optimizer(self._model(), loss, 0), BaseOptimizer)
        with pytest.raises(ZeroDivisionError):
            self._run(optimizer)
        self._run(optimizer)

    def test_nothing_of_the_callers_is_changed(self) -> None:
        """Global generators, templates and targets are as they were."""
        optimizer = self._optimizer()
        given: dict[str, Any] = {
            "templates": list(self.templates),
            "targets": self.make_targets(),
        }
        with watched():
            before = {**copy_value(given), **global_state()}
            optimizer.optimize_trigger(given["templates"], self.initial_trigger, given["targets"])
            changed = find_change(before, {**copy_value(given), **global_state()})
        expect(not changed, f"{', '.join(changed)}: changed by a run.")

    def test_a_budget_ends_a_run(self) -> None:
        """A run that reaches its budget ends, at most one step beyond it."""
        free, tracker = self._tracked()
        self._run(free)
        used = tracker.tokens
        if len(used) < 3:
            lack(free, "takes too few steps to be given a budget")
        steps = [later - earlier for earlier, later in pairwise(used)]
        limit = used[len(used) // 2]
        bounded, tracker = self._tracked()
        bounded.set_budget(limit)
        self._run(bounded)
        spent = tracker.tokens
        expect(len(spent) < len(used), f"a budget of {limit} of {used[-1]} tokens ended nothing.")
        expect(
            spent[-1] <= limit + max(steps),
            f"{spent[-1]} tokens used of a budget of {limit}, in steps of {max(steps)} at most.",
        )

    def test_a_budget_must_be_positive(self) -> None:
        """A budget of nothing, or less, is refused."""
        for limit in (0, -5):
            with pytest.raises(BudgetError):
                self._optimizer().set_budget(limit)

    def test_candidates_keep_the_constraint(self) -> None:
        """No candidate that is evaluated holds a banned token."""
        model = self._model()
        optimizer = checked(self.make_optimizer(model, self.make_loss(), 0), BaseOptimizer)
        constraint = getattr(optimizer, "token_constraints", None)
        if constraint is None or not isinstance(model, LossTokenAccessMixin):
            lack(optimizer, "has no token_constraints, or evaluates no tokens")
        tokenizer = as_tokenizer(model.tokenizer)
        allowed = set(constraint.get_whitelist_ids(tokenizer, model.vocab_size).tolist())
        allowed |= set(tokenizer.encode(self.initial_trigger or ""))
        seen = _watch_candidates(model)
        self._run(optimizer)
        if not seen:
            lack(optimizer, "evaluates texts, not tokens")
        banned = sorted(seen - allowed)
        expect(not banned, f"candidates hold banned tokens: {banned[:10]}.")

    def _model(self) -> Any:
        model = self.make_model()
        return checked(model, BaseModel, *access_of(model))

    def _optimizer(self, seed: int = 0) -> Any:
        optimizer = self.make_optimizer(self._model(), self.make_loss(), seed)
        expect(
            isinstance(optimizer, BaseOptimizer),
            f"make_optimizer must return a BaseOptimizer, got {type(optimizer).__name__}.",
        )
        return checked(optimizer, BaseOptimizer)

    def _tracked(self) -> tuple[Any, "_Recorder"]:
        optimizer = self._optimizer()
        optimizer.tracker = _Recorder(optimizer)
        return optimizer, optimizer.tracker

    def _run(self, optimizer: Any) -> OptimizerResult:
        return optimizer.optimize_trigger(
            list(self.templates), self.initial_trigger, self.make_targets()
        )

    def _odd_targets(self) -> Targets:
        return Targets(target_response_strs=["yes"] * (len(self.templates) + 1))

    def _evaluate(self, optimizer: Any, result: OptimizerResult) -> torch.Tensor:
        """Return the loss of the best trigger, in the flow that the optimizer searches in."""
        model = self._model()
        templates, targets, loss = list(self.templates), self.make_targets(), self.make_loss()
        if Flow.TOKENS in flows_of(optimizer.model_requirements):
            if result.best_trigger_ids is None:
                lack(optimizer, "finds no token ids")
            model.set_inputs_from_tokens(templates, targets)
            return model.compute_loss_from_tokens(result.best_trigger_ids[None], loss)
        if result.best_trigger_str is None or not isinstance(model, LossTextAccessMixin):
            lack(optimizer, "finds no trigger that can be evaluated from outside")
        model.set_inputs_from_texts(templates, targets)
        return model.compute_loss_from_texts([result.best_trigger_str], loss)

    def _check_aborted(self, error: type[BaseException], status: str) -> None:
        loss = _failing(self.make_loss(), error, after=len(self.templates) + 1)
        optimizer = checked(self.make_optimizer(self._model(), loss, 0), BaseOptimizer)
        optimizer.tracker = _Recorder(optimizer)
        with pytest.raises(error):
            self._run(optimizer)
        self._expect_cleared(optimizer)
        optimizer.tracker.expect_one_run(status)

    def _expect_cleared(self, optimizer: Any) -> None:
        for model in (optimizer.model, *optimizer.auxiliary_models().values()):
            for access, attribute in (
                (TokenAccessMixin, "_token_input_manager"),
                (TextAccessMixin, "_text_input_manager"),
            ):
                held = getattr(model, attribute) if isinstance(model, access) else None
                expect(held is None, f"{type(model).__name__} still holds {attribute}.")


class _BareModel(LMBaseModel):
    """A model that grants no access at all."""

    def invoke_from_texts(self, input_texts: Any, *args: Any, **kwargs: Any) -> ModelOutput:
        del args, kwargs
        return ModelOutput(generated_response_strs=["" for _ in input_texts])


class _Recorder(BaseTracker):
    """Keeps what a run records, and how many tokens all models had processed by then."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__("recorder")
        self.models = (optimizer.model, *optimizer.auxiliary_models().values())
        self.tokens: list[int] = []
        self.events: list[str] = []
        self.steps: list[Mapping[str, Any]] = []
        self.summary: Mapping[str, Any] = {}

    def expect_one_run(self, status: str) -> None:
        """Fail unless one run was begun, recorded and finished, in this order."""
        ends = [event for event in self.events if event != "log"]
        whole = ends == ["init", "finish"] and self.events[-1] == "finish"
        expect(whole, f"the tracker saw {self.events}, expected init, log..., finish.")
        expect(
            self.summary.get("status") == status,
            f"the run was finished with {dict(self.summary)}, expected the status {status!r}.",
        )

    def _init(self, config: Mapping[str, Any]) -> None:
        del config
        self.events.append("init")

    def _log(self, data: Mapping[str, Any]) -> None:
        self.events.append("log")
        self.steps.append(dict(data))
        self.tokens.append(sum(model.get_usage_stats()["total_tokens"] for model in self.models))

    def _finish(self, summary: Mapping[str, Any]) -> None:
        self.events.append("finish")
        self.summary = dict(summary)


def _failing(loss: BaseLoss, error: type[BaseException], *, after: int) -> BaseLoss:
    """Return a loss that raises once, when it is computed for the first time after some times."""
    remaining = [after]

    def fail(losses: torch.Tensor) -> torch.Tensor:
        remaining[0] -= 1
        if remaining[0] == -1:
            raise error("planted")
        return losses

    return change_loss(loss, fail)


def _watch_candidates(model: Any) -> set[int]:
    """Return a set that grows by the tokens of the candidates that a model evaluates."""
    seen: set[int] = set()
    own = model.compute_loss_from_tokens

    def compute(candidate_trigger_ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.update(candidate_trigger_ids.flatten().tolist())
        return own(candidate_trigger_ids, *args, **kwargs)

    # Set on the object itself, so that it comes before the method of its class.
    model.compute_loss_from_tokens = compute
    return seen
