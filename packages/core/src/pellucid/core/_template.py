"""Templates: a text, or a conversation, that holds the trigger's placeholder."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from pellucid.core._errors import TemplateError
from pellucid.core._parts import InitialTrigger, number_placeholder, split_parts
from pellucid.core._targets import OPTIMIZED_TRIGGER_PLACEHOLDER, Targets

Messages: TypeAlias = list[dict[str, str]]
"""A conversation: messages with the keys "role" and "content"."""

Template: TypeAlias = str | Messages
"""A text, or a conversation, at least one of whose messages holds the placeholder."""

_STEM = re.escape(OPTIMIZED_TRIGGER_PLACEHOLDER[:-2])
# Whatever a number might have been meant by, so that a slip of the pen is not taken for text.
_ANY_PLACEHOLDER = re.compile(_STEM + r"(?:_([^{}]*))?\}\}")
_NUMBERED_PLACEHOLDER = re.compile(_STEM + r"_([1-9][0-9]*)\}\}")


class TemplatePieces(NamedTuple):
    """A text, cut where the trigger, or a part of it, goes.

    Attributes:
        texts: What stands before the first place, between places, and after the last.
        parts: Which part of the trigger goes in each place, counted from 0.
        is_numbered: Whether the placeholders bear numbers.
    """

    texts: tuple[str, ...]
    parts: tuple[int, ...]
    is_numbered: bool

    def fill(self, trigger_parts: Sequence[str]) -> str:
        """Return the text with the parts of a trigger in their places."""
        filled = [self.texts[0]]
        for part, text in zip(self.parts, self.texts[1:], strict=True):
            filled += (trigger_parts[part], text)
        return "".join(filled)


def check_templates(templates: object, targets: Targets | None = None) -> list[Template]:
    """Validate templates and return copies of them.

    Args:
        templates: A list of texts or of conversations.
        targets: If given, they must hold one entry for each template, or none at all.

    Returns:
        The templates, independent of what was passed.

    Raises:
        TemplateError: If there is no template, if one is neither text nor conversation, if one
            does not hold the placeholder, if some placeholders bear numbers and others do not, or
            if targets and templates differ in number.
    """
    if isinstance(templates, str) or not isinstance(templates, Sequence) or not templates:
        raise TemplateError(
            f"templates must be a list of at least one template, got {templates!r}. "
            f"Pass [template], where the template holds {OPTIMIZED_TRIGGER_PLACEHOLDER}."
        )
    checked = [_check_template(template, i) for i, template in enumerate(templates)]
    _check_numbering(checked)
    if targets is not None and targets.n_templates not in (0, len(checked)):
        raise TemplateError(
            f"{len(checked)} templates need {len(checked)} targets, got {targets.n_templates}. "
            "Give one target for each template, in the same order."
        )
    return checked


def count_parts(templates: Sequence[Template]) -> int:
    """Return how many parts of a trigger the templates of a run number, each somewhere.

    Returns:
        0 if the placeholder bears no number: then the trigger is one, and nothing separates parts.

    Raises:
        TemplateError: If a number is missing.
    """
    used = _used_parts(templates)
    missing = sorted(set(range(max(used, default=-1) + 1)) - used)
    if missing:
        raise TemplateError(
            f"the templates hold {number_placeholder(max(used) + 1)}, and "
            f"{number_placeholder(missing[0] + 1)} in none of them. Number the parts of the "
            "trigger from 1, and leave none out."
        )
    return len(used)


def highest_part(templates: Sequence[Template]) -> int:
    """Return the highest number that a placeholder bears, 0 if none bears one."""
    return max(_used_parts(templates), default=-1) + 1


def cut_template(text: str) -> TemplatePieces:
    """Cut a text where the trigger, or a part of it, goes.

    Raises:
        TemplateError: If the text holds no placeholder, or one that bears no proper number.
    """
    texts, numbers = _cut(text)
    _check_count(len(numbers), text, 0)
    is_numbered = any(number is not None for number in numbers)
    parts = tuple(0 if number is None else number - 1 for number in numbers)
    return TemplatePieces(tuple(texts), parts, is_numbered)


def split_template(text: str) -> tuple[str, str]:
    """Return the text before and after the placeholder, for texts that hold it once.

    Raises:
        TemplateError: If the text does not hold the placeholder exactly once.
    """
    held = text.count(OPTIMIZED_TRIGGER_PLACEHOLDER)
    if held != 1:
        raise TemplateError(
            f"{text!r} holds {OPTIMIZED_TRIGGER_PLACEHOLDER} {held} times, expected once. "
            "Use cut_template where it may stand several times."
        )
    before, after = text.split(OPTIMIZED_TRIGGER_PLACEHOLDER)
    return before, after


def fill_template(template: Template, trigger: InitialTrigger) -> Template:
    """Put a trigger in the placeholders' places; the template itself is left as it is.

    Args:
        template: A text or a conversation.
        trigger: The trigger as one text, or the texts of its parts.

    Raises:
        TemplateError: If the template has a place for a part that the trigger has not.
    """
    if isinstance(template, str):
        return _fill(template, trigger)
    return [{**message, "content": _fill(message["content"], trigger)} for message in template]


def _fill(text: str, trigger: InitialTrigger) -> str:
    if OPTIMIZED_TRIGGER_PLACEHOLDER in text:
        whole = trigger if isinstance(trigger, str) else _the_only(trigger)
        return text.replace(OPTIMIZED_TRIGGER_PLACEHOLDER, whole)
    if OPTIMIZED_TRIGGER_PLACEHOLDER[:-2] not in text:
        return text
    parts = split_parts(trigger) if isinstance(trigger, str) else list(trigger)

    def pick(found: re.Match[str]) -> str:
        if int(found[1]) > len(parts):
            raise TemplateError(
                f"the template has a place for part {found[1]} of the trigger, which has "
                f"{len(parts)}: {trigger!r}. Give each part its text."
            )
        return parts[int(found[1]) - 1]

    return _NUMBERED_PLACEHOLDER.sub(pick, text)


def _the_only(parts: Sequence[str]) -> str:
    if len(parts) != 1:
        raise TemplateError(
            f"the template has a place for one trigger, got parts {list(parts)!r}. Number the "
            f"placeholders, as {number_placeholder(1)}."
        )
    return parts[0]


def _used_parts(templates: Sequence[Template]) -> set[int]:
    numbers = (number for template in templates for number in _numbers_of(template))
    return {number - 1 for number in numbers if number is not None}


def _numbers_of(template: Template) -> Iterable[int | None]:
    """Return what the placeholders of a template are numbered, None for those that are not."""
    texts = (
        [template] if isinstance(template, str) else [message["content"] for message in template]
    )
    return [number for text in texts for number in _cut(text)[1]]


def _cut(text: str) -> tuple[list[str], list[int | None]]:
    texts: list[str] = []
    numbers: list[int | None] = []
    end = 0
    for found in _ANY_PLACEHOLDER.finditer(text):
        if found[1] is not None and not _NUMBERED_PLACEHOLDER.fullmatch(found[0]):
            raise TemplateError(
                f"a template holds {found[0]}, expected a number from 1, as "
                f"{number_placeholder(1)}: {text!r}."
            )
        texts.append(text[end : found.start()])
        numbers.append(None if found[1] is None else int(found[1]))
        end = found.end()
    return [*texts, text[end:]], numbers


def _check_template(template: object, index: int) -> Template:
    checked = template if isinstance(template, str) else _check_messages(template, index)
    _check_count(len(list(_numbers_of(checked))), checked, index)
    return checked


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


def _check_numbering(templates: Sequence[Template]) -> None:
    numbers = [number for template in templates for number in _numbers_of(template)]
    if None in numbers and any(number is not None for number in numbers):
        raise TemplateError(
            f"the templates hold both {OPTIMIZED_TRIGGER_PLACEHOLDER} and "
            f"{number_placeholder(max(number or 0 for number in numbers))}. Number all "
            "placeholders if the trigger has parts, and none if it has not."
        )


def _misshapen(template: object, index: int) -> TemplateError:
    return TemplateError(
        f"template {index} must be a text or a list of messages with the keys 'role' and "
        f"'content' (both texts), got {template!r}."
    )


def _check_count(held: int, template: object, index: int) -> None:
    if held == 0:
        raise TemplateError(
            f"template {index} holds {OPTIMIZED_TRIGGER_PLACEHOLDER} 0 times, expected at least "
            f"once: {template!r}. Put it where the trigger shall stand."
        )
