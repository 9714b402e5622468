"""Callbacks that end a run with success: by loss, or by what the model answers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    LMBaseModel,
    ModelInput,
    ModelOutput,
    RequirementError,
    Targets,
    Template,
    check_templates,
    fill_template,
    resolve_and_compute_loss,
)
from pellucid.optimizers._step import Step

# A response is cut off a little beyond the target, so that one that goes on is not taken for it.
_SPARE_TOKENS = 8


class LossBelow:
    """Ends a run once the best loss is as low as wanted.

    Args:
        limit: The loss that is low enough.

    Raises:
        ArgumentError: If it is NaN.
    """

    stop_reason = "success"

    def __init__(self, limit: float) -> None:
        if math.isnan(limit):
            raise ArgumentError(f"limit must be a number to compare a loss with, got {limit!r}.")
        self.limit = limit

    def __call__(self, step: Step) -> bool:
        """Say whether the best loss so far is at most the limit."""
        return step.best_loss <= self.limit


class ResponseGoal(ABC):
    """Ends a run once the model's greedy responses are what they shall be, asked through text.

    The model is asked only when the best trigger has changed. Its usage stays as it was: it counts
    what a search costs, and a run that is resumed counts like one that never stopped.

    Args:
        model: A language model.
        templates: As the run's.
        targets: As the run's.
        max_new_tokens: How long a response may grow.

    Raises:
        RequirementError: If the model is no language model.
        TemplateError: If a template or the number of targets is not as it must be.
    """

    stop_reason = "success"

    def __init__(
        self,
        model: LMBaseModel,
        templates: Sequence[Template],
        targets: Targets | None,
        *,
        max_new_tokens: int,
    ) -> None:
        if not isinstance(model, LMBaseModel):
            raise RequirementError(
                f"{type(self).__name__} looks at responses, which {type(model).__name__} does not "
                "give. Use a language model."
            )
        self._model = model
        self._templates = check_templates(templates, targets)
        self._max_new_tokens = max_new_tokens
        self._asked: str | None = None
        self._reached = False

    def __call__(self, step: Step) -> bool:
        """Say whether the best trigger of a step brings the goal about."""
        return self.is_reached(step.best_trigger)

    def is_reached(self, trigger: str) -> bool:
        """Say whether a trigger brings the goal about."""
        if trigger != self._asked:
            self._reached = self.accept(trigger, self.answers(trigger))
            self._asked = trigger
        return self._reached

    def answers(self, trigger: str) -> list[str]:
        """Return the greedy response to each template with a trigger filled in."""
        counted = self._model.get_usage_stats()
        try:
            return self._model(self.fill(trigger), max_new_tokens=self._max_new_tokens)
        finally:
            self._model.restore_usage_stats(counted)

    def fill(self, trigger: str) -> list[Template]:
        """Return the templates with a trigger filled in."""
        return [fill_template(template, trigger) for template in self._templates]

    @abstractmethod
    def accept(self, trigger: str, answers: list[str]) -> bool:
        """Say whether these are the responses wanted."""


class ExactMatch(ResponseGoal):
    """Ends a run when every response equals its target; space around either does not count.

    Args:
        model: A language model.
        templates: As the run's.
        targets: With `target_response_strs`.

    Raises:
        RequirementError: If the model is no language model, or there are no target responses.
        TemplateError: If a template or the number of targets is not as it must be.
    """

    def __init__(
        self, model: LMBaseModel, templates: Sequence[Template], targets: Targets | None
    ) -> None:
        if targets is None or targets.target_response_strs is None:
            raise RequirementError("ExactMatch needs targets with target_response_strs.")
        wanted = targets.target_response_strs
        # A token stands for one character at the least.
        longest = max(map(len, wanted), default=0) + _SPARE_TOKENS
        super().__init__(model, templates, targets, max_new_tokens=longest)
        self._targets = [target.strip() for target in wanted]

    def accept(self, trigger: str, answers: list[str]) -> bool:
        """Say whether these are the targets."""
        del trigger
        return [answer.strip() for answer in answers] == self._targets


class JudgeAgrees(ResponseGoal):
    """Ends a run when a judge accepts every response.

    Args:
        model: A language model.
        templates: As the run's.
        judge: A loss that reads responses, such as `pellucid.losses.ResponseLMScoreLoss`, which
            accepts those of a loss of at most `limit`; or a function that is given the responses,
            one for each template, and says of each whether it accepts it.
        limit: The loss that is low enough: by default, where a judge finds yes as likely as no.
        max_new_tokens: How long a response may grow.

    Raises:
        RequirementError: If the model is no language model, or the judge cannot be called.
        TemplateError: If a template is not as it must be.
    """

    def __init__(
        self,
        model: LMBaseModel,
        templates: Sequence[Template],
        judge: BaseLoss | Callable[[list[str]], Sequence[bool]],
        *,
        limit: float = 0.0,
        max_new_tokens: int = 128,
    ) -> None:
        if not callable(judge):
            raise RequirementError(f"judge must be a loss or a function, got {judge!r}.")
        super().__init__(model, templates, None, max_new_tokens=max_new_tokens)
        self._judge: Any = judge
        self._limit = limit

    def accept(self, trigger: str, answers: list[str]) -> bool:
        """Say whether the judge accepts all."""
        if not isinstance(self._judge, BaseLoss):
            return all(self._judge(answers))
        pairs = zip(self.fill(trigger), answers, strict=True)
        return all(self._weigh(trigger, text, answer) <= self._limit for text, answer in pairs)

    def _weigh(self, trigger: str, text: Any, answer: str) -> float:
        """Return the judge's loss; one template at a time, as losses are computed everywhere."""
        asked = ModelInput(input_texts=[text], input_trigger_strs=[trigger])
        output = ModelOutput(generated_response_strs=[answer])
        return float(resolve_and_compute_loss(output, asked, self._judge)[0])
