import math

import pytest
import torch

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    CombinedLoss,
    LMBaseModel,
    ModelOutput,
    RequirementError,
    Targets,
)
from pellucid.optimizers import ExactMatch, JudgeAgrees, LossBelow, Step


class Parrot(LMBaseModel):
    """Says what follows the colon; counts how often it is asked."""

    n_asked = 0

    def invoke_from_texts(self, input_texts, **kwargs):
        self._update_usage_stats(forward_calls=1)
        self.n_asked += 1
        last = [t if isinstance(t, str) else t[-1]["content"] for t in input_texts]
        return ModelOutput(generated_response_strs=[text.split(":")[1] for text in last])


TEMPLATES = ["Say:{{OPTIMIZED_TRIGGER}}", [{"role": "user", "content": "Do:{{OPTIMIZED_TRIGGER}}"}]]


def step_with(best_trigger, best_loss=1.0):
    return Step(
        step=1,
        loss=1.0,
        best_loss=best_loss,
        trigger="other",
        best_trigger=best_trigger,
        elapsed_s=0.0,
        tokens=0,
    )


def test_every_target_must_be_met_exactly():
    both = Targets(target_response_strs=["yes", "yes "])
    match = ExactMatch(Parrot(), TEMPLATES, both)
    assert match(step_with(" yes"))
    assert not match(step_with("yes!"))
    assert not ExactMatch(
        Parrot(), TEMPLATES, Targets(target_response_strs=["yes", "no"])
    ).is_reached("yes")
    assert match.answers("a") == ["a", "a"]


def test_model_is_asked_once_for_each_best_trigger():
    model = Parrot()
    match = ExactMatch(model, TEMPLATES, Targets(target_response_strs=["a", "a"]))
    for trigger in ("b", "b", "a", "a", "a"):
        match(step_with(trigger))
    assert model.n_asked == 2


def test_usage_is_left_as_it_was_even_by_a_failure():
    model = Parrot()
    model(["a:b"])
    counted = model.get_usage_stats()
    match = ExactMatch(model, TEMPLATES, Targets(target_response_strs=["a", "a"]))
    match(step_with("a"))
    assert model.get_usage_stats() == counted
    model.invoke_from_texts = lambda texts, **_: texts[99]
    with pytest.raises(IndexError):
        match(step_with("b"))
    assert model.get_usage_stats() == counted


def test_a_loss_that_is_low_enough_ends_the_run():
    goal = LossBelow(0.5)
    assert goal(step_with("a", 0.5))
    assert not goal(step_with("a", 0.6))
    assert goal.stop_reason == "success"
    with pytest.raises(ArgumentError, match="nan"):
        LossBelow(math.nan)


class Shortness(BaseLoss):
    """The number of characters beyond three; reads responses as a judge does."""

    is_differentiable = False

    def __call__(self, generated_response_strs: list[str], input_texts: list):
        assert len(input_texts) == len(generated_response_strs)
        return torch.tensor([len(text) - 3.0 for text in generated_response_strs])


@pytest.mark.parametrize(
    "judge",
    [
        Shortness(),
        CombinedLoss([Shortness(), Shortness()]),
        lambda answers: [len(answer) <= 3 for answer in answers],
    ],
)
def test_a_judge_accepts_all_responses_or_the_run_goes_on(judge):
    model = Parrot()
    goal = JudgeAgrees(model, TEMPLATES, judge)
    assert not goal(step_with("long"))
    assert goal(step_with("abc"))
    assert goal(step_with("abc"))
    assert model.n_asked == 2
    assert goal.stop_reason == "success"


def test_a_judge_may_be_lenient():
    assert JudgeAgrees(Parrot(), TEMPLATES, Shortness(), limit=1.0)(step_with("long"))


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_judge_is_refused():
    with pytest.raises(RequirementError, match="must be a loss or a function"):
        JudgeAgrees(Parrot(), TEMPLATES, "yes")
    with pytest.raises(RequirementError, match="language model"):
        JudgeAgrees(object(), TEMPLATES, Shortness())


@pytest.mark.usefixtures("unchecked")
def test_missing_targets_and_other_models_are_refused():
    with pytest.raises(RequirementError, match="target_response_strs"):
        ExactMatch(Parrot(), TEMPLATES, None)
    with pytest.raises(RequirementError, match="language model"):
        ExactMatch(object(), TEMPLATES, Targets(target_response_strs=["a", "a"]))
