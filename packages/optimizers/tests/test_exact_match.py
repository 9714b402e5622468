import pytest

from pellucid.core import LMBaseModel, ModelOutput, RequirementError, Targets
from pellucid.optimizers import ExactMatch, Step


class Parrot(LMBaseModel):
    """Says what follows the colon; counts how often it is asked."""

    def invoke_from_texts(self, input_texts, **kwargs):
        self._update_usage_stats(forward_calls=1)
        last = [t if isinstance(t, str) else t[-1]["content"] for t in input_texts]
        return ModelOutput(generated_response_strs=[text.split(":")[1] for text in last])


TEMPLATES = ["Say:{{OPTIMIZED_TRIGGER}}", [{"role": "user", "content": "Do:{{OPTIMIZED_TRIGGER}}"}]]


def step_with(best_trigger):
    return Step(
        step=1,
        loss=1.0,
        best_loss=1.0,
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
    assert model.get_usage_stats()["forward_calls"] == 2


@pytest.mark.usefixtures("unchecked")
def test_missing_targets_and_other_models_are_refused():
    with pytest.raises(RequirementError, match="target_response_strs"):
        ExactMatch(Parrot(), TEMPLATES, None)
    with pytest.raises(RequirementError, match="language model"):
        ExactMatch(object(), TEMPLATES, Targets(target_response_strs=["a", "a"]))
