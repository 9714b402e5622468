"""Inputs managers: templates are prepared once, triggers are filled in at every step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

from pellucid.core._errors import ArgumentError
from pellucid.core._model_io import ModelInput
from pellucid.core._targets import OPTIMIZED_TRIGGER_PLACEHOLDER, Targets
from pellucid.core._template import Template, check_templates, fill_template, highest_part
from pellucid.core._tokenizer import as_tokenizer
from pellucid.core._trigger_tokens import TriggerTokens


class InputsManager(ABC):
    """Holds the templates of a run and builds inputs from them."""

    n_templates: int
    targets: Targets | None

    @abstractmethod
    def get_triggered_inputs(self, *args: Any, **kwargs: Any) -> ModelInput:
        """Return one template with candidate triggers filled in."""


class TextInputManager(InputsManager):
    """Fills triggers into templates as text.

    Args:
        templates: Texts or conversations with the placeholder.
        targets: One entry for each template, or None.

    Raises:
        TemplateError: If a template or the number of targets is not as it must be.
    """

    def __init__(self, templates: Sequence[Template], targets: Targets | None = None) -> None:
        self.templates = check_templates(templates, targets)
        self.n_templates = len(self.templates)
        self.targets = targets

    def get_triggered_inputs(self, chosen_template_idx: int, trigger_strs: list[str]) -> ModelInput:
        """Return a template with each trigger filled in.

        Args:
            chosen_template_idx: Which template, counted from 0.
            trigger_strs: The triggers; of one that has parts, these with
                `TRIGGER_PART_SEPARATOR` between them.

        Raises:
            ArgumentError: If `trigger_strs` is not a list of texts.
            TemplateError: If a trigger lacks a part that the template has a place for.
        """
        if not isinstance(trigger_strs, list) or not all(isinstance(t, str) for t in trigger_strs):
            raise ArgumentError(f"trigger_strs must be a list of texts, got {trigger_strs!r}.")
        template = self.templates[chosen_template_idx]
        filled: Any = [fill_template(template, trigger) for trigger in trigger_strs]
        return ModelInput(
            input_texts=filled,
            input_trigger_strs=trigger_strs,
            message_targets=_select(self.targets, chosen_template_idx),
        )


class TokenInputManager(InputsManager, TriggerTokens):
    """The kind of manager that fills triggers in as token ids."""

    @abstractmethod
    def get_triggered_inputs(
        self,
        chosen_template_idx: int,
        trigger_ids: Int[Tensor, "n_candidates trigger_pos"],
        **kwargs: Any,
    ) -> ModelInput:
        """Return one template with candidate triggers filled in."""


class DefaultTokenInputManager(TokenInputManager):
    """Decodes triggers and rebuilds texts: works with any tokenizer and any backend.

    Args:
        tokenizer: A `BaseTokenizer` or a Hugging Face tokenizer.
        templates_ids: Token ids of each template, the placeholder among them.
        targets: One entry for each template, or None.
        tok_ids: Another name for `templates_ids`.
        optimized_trigger_placeholder: The text that marks the trigger's place.

    Raises:
        ArgumentError: Unless exactly one of `templates_ids` and `tok_ids` is given.
        TemplateError: If a decoded template does not hold the placeholder.
    """

    def __init__(
        self,
        tokenizer: Any,
        templates_ids: Sequence[Sequence[int]] | None = None,
        targets: Targets | None = None,
        *,
        tok_ids: Sequence[Sequence[int]] | None = None,
        optimized_trigger_placeholder: str = OPTIMIZED_TRIGGER_PLACEHOLDER,
    ) -> None:
        given = [ids for ids in (templates_ids, tok_ids) if ids is not None]
        if len(given) != 1:
            raise ArgumentError(
                "DefaultTokenInputManager needs the templates' token ids once, as templates_ids or "
                f"as tok_ids, got them {len(given)} times."
            )
        self.tokenizer = as_tokenizer(tokenizer)
        texts = self.tokenizer.batch_decode(given[0])
        self._texts = TextInputManager(
            [
                text.replace(optimized_trigger_placeholder, OPTIMIZED_TRIGGER_PLACEHOLDER)
                for text in texts
            ],
            targets,
        )
        self.n_templates = self._texts.n_templates
        self.n_parts = highest_part(self._texts.templates)
        self.targets = targets

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return self.tokenizer.vocab_size

    def get_triggered_inputs(
        self,
        chosen_template_idx: int,
        trigger_ids: Int[Tensor, "n_candidates trigger_pos"],
        **kwargs: Any,
    ) -> ModelInput:
        """Return a template with each trigger decoded and filled in.

        Args:
            chosen_template_idx: Which template, counted from 0.
            trigger_ids: Token ids, int, of shape (n_candidates, trigger_pos).
            **kwargs: None is known; any is an error.

        Raises:
            ArgumentError: If there are further arguments.
        """
        if kwargs:
            raise ArgumentError(f"unknown arguments {sorted(kwargs)!r}; this manager has none.")
        triggers = self.decode_triggers(trigger_ids)
        filled = self._texts.get_triggered_inputs(chosen_template_idx, triggers)
        return ModelInput(**filled.to_dict(), input_trigger_ids=trigger_ids)


def _select(targets: Targets | None, template_idx: int) -> Any:
    return None if targets is None else targets.select_message(template_idx)
