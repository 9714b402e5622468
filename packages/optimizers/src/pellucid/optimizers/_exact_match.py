"""Stops a run once the model says what it shall say."""

from collections.abc import Sequence

from pellucid.core import (
    LMBaseModel,
    RequirementError,
    Targets,
    Template,
    check_templates,
    fill_template,
)
from pellucid.optimizers._step import Step

# A response is cut off a little beyond the target, so that one that goes on is not taken for it.
_SPARE_TOKENS = 8


class ExactMatch:
    """A callback that ends a run when every response equals its target, asked through text.

    Responses are greedy; space around a response or a target does not count. The model is asked
    only when the best trigger has changed.

    Args:
        model: A language model.
        templates: As the run's.
        targets: With `target_response_strs`.

    Raises:
        RequirementError: If the model is no language model, or there are no target responses.
        TemplateError: If a template or the number of targets is not as it must be.
    """

    stop_reason = "success"

    def __init__(
        self, model: LMBaseModel, templates: Sequence[Template], targets: Targets | None
    ) -> None:
        if not isinstance(model, LMBaseModel):
            raise RequirementError(
                f"ExactMatch compares responses, which {type(model).__name__} does not give. "
                "Use a language model."
            )
        if targets is None or targets.target_response_strs is None:
            raise RequirementError("ExactMatch needs targets with target_response_strs.")
        self._model = model
        self._templates = check_templates(templates, targets)
        self._targets = [target.strip() for target in targets.target_response_strs]
        self._asked: str | None = None
        self._reached = False

    def __call__(self, step: Step) -> bool:
        """Say whether the best trigger of a step brings about every target."""
        return self.is_reached(step.best_trigger)

    def is_reached(self, trigger: str) -> bool:
        """Say whether a trigger brings about every target."""
        if trigger != self._asked:
            self._reached = [answer.strip() for answer in self.answers(trigger)] == self._targets
            self._asked = trigger
        return self._reached

    def answers(self, trigger: str) -> list[str]:
        """Return the greedy response to each template with a trigger filled in."""
        texts = [fill_template(template, trigger) for template in self._templates]
        # A token stands for one character at the least.
        longest = max(len(target) for target in self._targets) + _SPARE_TOKENS
        return self._model(texts, max_new_tokens=longest)
