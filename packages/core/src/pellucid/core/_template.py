"""Templates: a text, or a conversation, that holds the trigger's placeholder exactly once."""

from collections.abc import Sequence
from typing import TypeAlias

from pellucid.core._errors import TemplateError
from pellucid.core._targets import OPTIMIZED_TRIGGER_PLACEHOLDER, Targets

Messages: TypeAlias = list[dict[str, str]]
"""A conversation: messages with the keys "role" and "content"."""

Template: TypeAlias = str | Messages
"""A text, or a conversation one of whose messages holds the placeholder."""


def check_templates(templates: object, targets: Targets | None = None) -> list[Template]:
    """Validate templates and return copies of them.

    Args:
        templates: A list of texts or of conversations.
        targets: If given, they must hold one entry for each template, or none at all.

    Returns:
        The templates, independent of what was passed.

    Raises:
        TemplateError: If there is no template, if one is neither text nor conversation, if one
            does not hold the placeholder exactly once, or if targets and templates differ in
            number.
    """
    if isinstance(templates, str) or not isinstance(templates, Sequence) or not templates:
        raise TemplateError(
            f"templates must be a list of at least one template, got {templates!r}. "
            f"Pass [template], where the template holds {OPTIMIZED_TRIGGER_PLACEHOLDER}."
        )
    checked = [_check_template(template, i) for i, template in enumerate(templates)]
    if targets is not None and targets.n_templates not in (0, len(checked)):
        raise TemplateError(
            f"{len(checked)} templates need {len(checked)} targets, got {targets.n_templates}. "
            "Give one target for each template, in the same order."
        )
    return checked


def split_template(text: str) -> tuple[str, str]:
    """Return the text before and after the placeholder.

    Raises:
        TemplateError: If the text does not hold the placeholder exactly once.
    """
    _count_once(text.count(OPTIMIZED_TRIGGER_PLACEHOLDER), text, 0)
    before, after = text.split(OPTIMIZED_TRIGGER_PLACEHOLDER)
    return before, after


def fill_template(template: Template, trigger: str) -> Template:
    """Put a trigger in the placeholder's place; the template itself is left as it is."""
    if isinstance(template, str):
        return template.replace(OPTIMIZED_TRIGGER_PLACEHOLDER, trigger)
    return [
        {**message, "content": message["content"].replace(OPTIMIZED_TRIGGER_PLACEHOLDER, trigger)}
        for message in template
    ]


def _check_template(template: object, index: int) -> Template:
    if isinstance(template, str):
        _count_once(template.count(OPTIMIZED_TRIGGER_PLACEHOLDER), template, index)
        return template
    messages = _check_messages(template, index)
    held = sum(message["content"].count(OPTIMIZED_TRIGGER_PLACEHOLDER) for message in messages)
    _count_once(held, messages, index)
    return messages


def _check_messages(template: object, index: int) -> Messages:
    if not isinstance(template, Sequence) or not template:
        raise _misshapen(template, index)
    messages: Messages = []
    for message in template:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise _misshapen(template, index)
        if not all(isinstance(held, str) for held in message.values()):
            raise _misshapen(template, index)
        messages.append(dict(message))
    return messages


def _misshapen(template: object, index: int) -> TemplateError:
    return TemplateError(
        f"template {index} must be a text or a list of messages with the keys 'role' and "
        f"'content' (both texts), got {template!r}."
    )


def _count_once(held: int, template: object, index: int) -> None:
    if held != 1:
        raise TemplateError(
            f"template {index} holds {OPTIMIZED_TRIGGER_PLACEHOLDER} {held} times, expected once: "
            f"{template!r}. Put it where the trigger shall stand, and nowhere else."
        )
