"""What the model answers, asked as anybody would ask it: through text."""

from collections.abc import Sequence

from pellucid.core import InitialTrigger, LMBaseModel, cut_template, fill_template

_LEAST_TOKENS = 64
# A response that goes on beyond its target must not be cut off where the target ends.
_SPARE_TOKENS = 8
_CLINGING = ".,;:!?)]}"


def ask(
    model: LMBaseModel,
    templates: Sequence[str],
    trigger: InitialTrigger,
    targets: Sequence[str] = (),
) -> list[str | None]:
    """Return the model's greedy answer to each template with a trigger, or its parts, in place."""
    return _ask_texts(model, [str(fill_template(t, trigger)) for t in templates], targets)


def ask_without_trigger(
    model: LMBaseModel, templates: Sequence[str], targets: Sequence[str] = ()
) -> list[str | None]:
    """Return the model's greedy answer to each template without trigger and placeholders."""
    return _ask_texts(model, [remove_placeholder(t) for t in templates], targets)


def remove_placeholder(template: str) -> str:
    """Return a template as somebody would write it who knows of no trigger.

    White space on both sides of a placeholder becomes one piece: a line break if it held one, a
    space otherwise, nothing before punctuation.
    """
    first, *others = cut_template(template).texts
    text = first
    for after in others:
        text = _join(text, after)
    return text.strip()


def _join(before: str, after: str) -> str:
    head, tail = before.rstrip(), after.lstrip()
    space = before[len(head) :] + after[: len(after) - len(tail)]
    joint = "\n" if "\n" in space else " " if space and tail[:1] not in _CLINGING else ""
    return head + joint + tail


def equal_targets(answers: Sequence[str | None], targets: Sequence[str]) -> bool | None:
    """Say whether every answer is its target, space around them aside; None without targets."""
    if not targets:
        return None
    return [(answer or "").strip() for answer in answers] == [target.strip() for target in targets]


def _ask_texts(model: LMBaseModel, texts: list[str], targets: Sequence[str]) -> list[str | None]:
    longest = max((len(target) for target in targets), default=0) + _SPARE_TOKENS
    return list(model(texts, max_new_tokens=max(_LEAST_TOKENS, longest)))
