import json

import pytest
import torch
from core_samples import (
    TEMPLATE,
    AppendOptimizer,
    EchoLM,
    EmbeddingSumLoss,
    LengthLoss,
    LetterEncoder,
    ListTracker,
)

from pellucid.core import (
    BaseOptimizer,
    BudgetError,
    CombinedLoss,
    DummyTracker,
    GradientTokenAccessMixin,
    InputsNotSetError,
    LossTextAccessMixin,
    NotDifferentiableError,
    OptimizerResult,
    RequirementError,
    Targets,
    TemplateError,
    TokenAccessMixin,
)
from pellucid.core._optimizer import _plain

TEMPLATES = [TEMPLATE]


def build(**kwargs):
    tracker = ListTracker()
    optimizer = AppendOptimizer(
        LetterEncoder(), EmbeddingSumLoss(), tracker, letters="ax", **kwargs
    )
    return optimizer, tracker


class FailingOptimizer(AppendOptimizer):
    error: BaseException = ZeroDivisionError("mine")

    def optimize_trigger(self, templates, initial_trigger=None, targets=None):
        self.model.set_inputs_from_texts(templates, targets)
        self.log(1.0, "half-way")
        raise self.error


class PatientOptimizer(AppendOptimizer):
    """Calls the optimizer it extends, within the same run."""

    def optimize_trigger(self, templates, initial_trigger=None, targets=None):
        first = super().optimize_trigger(templates, initial_trigger, targets)
        return super().optimize_trigger(templates, first.best_trigger_str, targets)


def test_a_run_finds_the_letter_that_lowers_the_loss():
    optimizer, tracker = build()
    result = optimizer.optimize_trigger(TEMPLATES, "a")
    assert result.best_trigger_str == "axx"
    assert result.losses == [2.0, 2.0]
    assert tracker.kinds() == ["init", "log", "log", "finish"]
    assert tracker.events[-1][1] == {"status": "finished", **result.to_dict()}


def test_each_step_is_logged_with_the_best_so_far_and_all_usage():
    optimizer, tracker = build()
    optimizer.optimize_trigger(TEMPLATES)
    logged = tracker.events[1][1]
    assert logged["loss"] == logged["best_loss"] == 1.0
    assert logged["trigger_str"] == "x"
    assert logged["loss/EmbeddingSumLoss"] == 1.0
    assert logged["target_model_stats/forward_samples"] == 2
    assert logged["total_models_stats/forward_samples"] == 2


def test_the_best_is_the_lowest_ever_logged():
    optimizer, tracker = build()
    with optimizer.run(TEMPLATES):
        for loss in (3.0, torch.tensor(1.0), 2.0):
            optimizer.log(loss, extra=7)
    logged = [data for kind, data in tracker.events if kind == "log"]
    assert [data["best_loss"] for data in logged] == [3.0, 1.0, 1.0]
    assert all(data["extra"] == 7 for data in logged)
    assert "trigger_str" not in logged[0]


def test_a_second_run_starts_afresh():
    optimizer, tracker = build(num_steps=1)
    first = optimizer.optimize_trigger(TEMPLATES)
    tokens = optimizer.model.get_usage_stats()["total_tokens"]
    second = optimizer.optimize_trigger(TEMPLATES)
    assert first == second
    assert optimizer.model.get_usage_stats()["total_tokens"] == tokens
    assert tracker.kinds() == ["init", "log", "finish"] * 2
    assert tracker.events[1] == tracker.events[4]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ZeroDivisionError("mine"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (GeneratorExit(), "interrupted"),
        (SystemExit(3), "failed"),
    ],
)
def test_whatever_ends_a_run_it_is_finished_and_cleaned_up(error, status):
    tracker = ListTracker()
    optimizer = FailingOptimizer(LetterEncoder(), EmbeddingSumLoss(), tracker)
    optimizer.error = error
    with pytest.raises(type(error)) as caught:
        optimizer.optimize_trigger(TEMPLATES)
    assert caught.value is error
    assert tracker.kinds() == ["init", "log", "finish"]
    assert tracker.events[-1][1] == {"status": status}
    with pytest.raises(InputsNotSetError):
        optimizer.model.compute_loss_from_texts(["a"], EmbeddingSumLoss())
    with pytest.raises(type(error)):  # the next run begins as if nothing had been
        optimizer.optimize_trigger(TEMPLATES)
    assert tracker.kinds() == ["init", "log", "finish"] * 2


def test_a_summary_of_an_earlier_run_is_not_told_of_a_failed_one():
    optimizer, tracker = build()
    optimizer.optimize_trigger(TEMPLATES)
    with pytest.raises(ZeroDivisionError), optimizer.run(TEMPLATES):
        raise ZeroDivisionError
    assert tracker.events[-1][1] == {"status": "failed"}


def test_inputs_are_cleared_after_a_run_that_went_well():
    optimizer, _ = build()
    optimizer.optimize_trigger(TEMPLATES)
    with pytest.raises(InputsNotSetError):
        optimizer.model.compute_loss_from_texts(["a"], EmbeddingSumLoss())


def test_a_call_of_super_stays_within_one_run():
    tracker = ListTracker()
    optimizer = PatientOptimizer(LetterEncoder(), EmbeddingSumLoss(), tracker, letters="ax")
    result = optimizer.optimize_trigger(TEMPLATES)
    assert result.best_trigger_str == "xxxx"
    assert tracker.kinds() == ["init", *["log"] * 4, "finish"]
    assert optimizer.model.get_usage_stats()["forward_calls"] == 4


def test_an_optimizer_that_inherits_optimize_trigger_runs_once():
    class Renamed(AppendOptimizer):
        pass

    tracker = ListTracker()
    Renamed(LetterEncoder(), EmbeddingSumLoss(), tracker).optimize_trigger(TEMPLATES)
    assert tracker.kinds() == ["init", "log", "log", "finish"]


def test_an_optimizer_may_own_its_life_cycle():
    class Driven(AppendOptimizer):
        owns_life_cycle = True

        def optimize_trigger(self, templates, initial_trigger=None, targets=None):
            self.steps_before = self.tracker.kinds()
            with self.run(templates, initial_trigger, targets, {"resumed_from": 5}) as checked:
                self.log(0.5)
            return OptimizerResult(trigger_strs=checked)

    tracker = ListTracker()
    optimizer = Driven(LetterEncoder(), EmbeddingSumLoss(), tracker)
    assert optimizer.optimize_trigger(TEMPLATES).trigger_strs == TEMPLATES
    assert optimizer.steps_before == []
    assert tracker.kinds() == ["init", "log", "finish"]
    assert tracker.events[0][1]["resumed_from"] == 5


@pytest.mark.parametrize(
    ("templates", "targets"),
    [([], None), (["none"], None), (TEMPLATES * 2, Targets(target_response_strs=["a"]))],
)
def test_bad_templates_are_refused_before_anything_happens(templates, targets):
    optimizer, tracker = build()
    with pytest.raises(TemplateError):
        optimizer.optimize_trigger(templates, targets=targets)
    assert tracker.events == []
    assert optimizer.model.calls == []
    assert optimizer.optimize_trigger(TEMPLATES).best_trigger_str == "xx"


def test_the_optimizer_works_on_copies_of_the_templates():
    seen = []

    class Looking(AppendOptimizer):
        def optimize_trigger(self, templates, initial_trigger=None, targets=None):
            seen.append(templates)
            templates.clear()
            return OptimizerResult()

    templates = [TEMPLATE]
    Looking(LetterEncoder(), EmbeddingSumLoss()).optimize_trigger(templates)
    assert templates == [TEMPLATE]
    assert seen[0] is not templates


def test_the_configuration_is_plain_and_complete():
    optimizer, tracker = build(seed=3)
    optimizer.device_choice = torch.device("cpu")
    optimizer.schedule = {1: (0.5, torch.tensor([1, 2]))}
    targets = Targets(target_response_strs=["yes"], target_vectors=torch.ones(1, 2))
    optimizer.optimize_trigger(TEMPLATES, "a", targets)
    config = tracker.events[0][1]
    assert json.loads(json.dumps(config)) == config
    assert config["optimizer"] == "AppendOptimizer"
    assert config["model"] == "LetterEncoder"
    assert "EmbeddingSumLoss" in config["loss"]
    assert config["templates"] == TEMPLATES
    assert config["initial_trigger"] == "a"
    assert config["targets"] == {"target_response_strs": ["yes"], "target_vectors": [[1.0, 1.0]]}
    assert config["hparam/seed"] == 3
    assert config["hparam/num_steps"] == 2
    assert config["hparam/letters"] == "ax"
    assert config["hparam/device_choice"] == "cpu"
    assert config["hparam/schedule"] == {"1": [0.5, [1, 2]]}
    assert not any(name.startswith(("hparam/_", "hparam/model", "hparam/loss")) for name in config)


def test_plain_values():
    assert _plain(None) is None
    assert _plain(True) is True
    assert _plain((1, "a", 2.5)) == [1, "a", 2.5]
    assert _plain({"x": {2, 3}}) in ({"x": "{2, 3}"}, {"x": "{3, 2}"})


def test_auxiliary_models_are_found_named_counted_and_cleaned_up():
    class Aided(AppendOptimizer):
        def __init__(self, model, helper, **kwargs):
            super().__init__(model, EmbeddingSumLoss(), **kwargs)
            self.proxy_model = helper
            self.same_again = helper
            self.target_again = model

        def optimize_trigger(self, templates, initial_trigger=None, targets=None):
            self.proxy_model.set_inputs_from_texts(templates)
            self.proxy_model.set_inputs_from_tokens(templates)
            self.proxy_model(["abcd"])
            return super().optimize_trigger(templates, initial_trigger, targets)

    helper, tracker = EchoLM("helper"), ListTracker()
    helper(["used before"])
    optimizer = Aided(LetterEncoder(), helper, tracker=tracker)
    assert optimizer.auxiliary_models() == {"proxy_model": helper}
    optimizer.optimize_trigger(TEMPLATES)
    assert tracker.events[0][1]["proxy_model"] == "helper"
    logged = tracker.events[1][1]
    assert logged["proxy_model_stats/total_tokens"] == 4
    assert (
        logged["total_models_stats/total_tokens"] == logged["target_model_stats/total_tokens"] + 4
    )
    with pytest.raises(InputsNotSetError):
        helper.encode_trigger("a")
    assert helper._text_input_manager is None


def test_the_budget_ends_a_run_after_the_step_that_spends_it():
    optimizer, _ = build(num_steps=50)
    optimizer.set_budget(60)
    assert not optimizer.is_budget_spent()
    result = optimizer.optimize_trigger(TEMPLATES)
    # A step evaluates two texts of 8 + i characters: 18, 20 and 22 tokens make 60.
    assert len(result.losses) == 3
    assert optimizer.is_budget_spent()
    assert optimizer.model.get_usage_stats()["total_tokens"] == 60
    optimizer.reset_budget()
    assert len(optimizer.optimize_trigger(TEMPLATES).losses) == 50


def test_auxiliary_models_count_unless_the_scope_is_the_target():
    optimizer, _ = build()
    optimizer.helper = EchoLM()
    optimizer.helper(["x" * 100])
    optimizer.set_budget(50)
    assert optimizer.is_budget_spent()
    optimizer.set_budget(50, scope="target")
    assert not optimizer.is_budget_spent()


def test_a_budget_in_seconds():
    optimizer, _ = build(num_steps=50)
    optimizer.set_budget(10.0, "seconds")
    assert not optimizer.is_budget_spent(9.99)
    assert optimizer.is_budget_spent(10.0)
    optimizer.set_budget(1e-9, "seconds")
    assert optimizer.optimize_trigger(TEMPLATES).losses == []


@pytest.mark.parametrize("limit", [0, -5])
def test_a_budget_is_positive(limit):
    optimizer, _ = build()
    with pytest.raises(BudgetError, match="must be positive"):
        optimizer.set_budget(limit)
    assert not optimizer.is_budget_spent()


def test_every_step_is_taken_without_a_budget():
    optimizer, _ = build()
    assert list(optimizer.track_steps(range(4), disable=True)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "gpt2"}, "model must be a BaseModel, got 'gpt2'"),
        ({"loss": LengthLoss}, "loss must be a BaseLoss, got <class"),
        ({"loss": "ce"}, "loss must be a BaseLoss, got 'ce'"),
        ({"tracker": print}, "tracker must be a BaseTracker, got <built-in function print>"),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused(arguments, message):
    from core_samples import unhooked

    given = {"model": LetterEncoder(), "loss": EmbeddingSumLoss(), **arguments}
    with pytest.raises(RequirementError, match=message) as caught:
        unhooked(BaseOptimizer.__init__)(object.__new__(AppendOptimizer), **given)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, AssertionError)


def test_an_access_that_the_model_lacks_is_refused_at_construction():
    class Demanding(AppendOptimizer):
        model_requirements = (LossTextAccessMixin, GradientTokenAccessMixin)

    model = LetterEncoder()
    with pytest.raises(
        RequirementError, match=r"Demanding requires GradientTokenAccessMixin, which"
    ):
        Demanding(model, EmbeddingSumLoss())
    assert model.calls == []


def test_a_loss_without_gradient_is_refused_at_construction():
    class Hard(EmbeddingSumLoss):
        is_differentiable = False

    class Gradient(AppendOptimizer):
        model_requirements = (GradientTokenAccessMixin,)

    class Able(LetterEncoder, GradientTokenAccessMixin):
        tokenizer = None

        def set_inputs_from_tokens(self, templates, targets=None): ...

        def invoke_from_tokens(self, *args, **kwargs): ...

        def compute_grad_from_tokens(self, *args, **kwargs): ...

    Gradient(Able(), EmbeddingSumLoss())
    for loss in (Hard(), CombinedLoss([EmbeddingSumLoss(), Hard()])):
        with pytest.raises(NotDifferentiableError, match="takes gradients of the loss"):
            Gradient(Able(), loss)


def test_a_field_that_the_model_lacks_is_refused_at_construction():
    class NeedyLoss(LengthLoss):
        def __call__(self, full_logits):
            return full_logits[:, 0, 0]

    with pytest.raises(
        RequirementError, match=r"NeedyLoss reads 'full_logits', which LetterEncoder"
    ):
        AppendOptimizer(LetterEncoder(), NeedyLoss())


def test_loss_and_tracker_may_be_left_out():
    class Plain(BaseOptimizer):
        model_requirements = (TokenAccessMixin,)

        def optimize_trigger(self, templates, initial_trigger=None, targets=None):
            self.log(1.0)
            return OptimizerResult(best_loss=1.0)

    optimizer = Plain(EchoLM())
    assert optimizer.loss is None
    assert isinstance(optimizer.tracker, DummyTracker)
    assert optimizer.seed is None
    assert optimizer.optimize_trigger(TEMPLATES).best_loss == 1.0


def test_optimize_trigger_is_asked_for():
    with pytest.raises(TypeError, match="abstract"):
        BaseOptimizer(LetterEncoder())
