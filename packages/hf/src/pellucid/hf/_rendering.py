"""Templates and prompts as the one text that the model reads."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from pellucid.core import (
    OPTIMIZED_TRIGGER_PLACEHOLDER,
    ArgumentError,
    Template,
    TemplateError,
    TemplatePieces,
    cut_template,
    fill_template,
    number_placeholder,
)

# A chat template that trims, or otherwise rewrites, a message's content changes this.
_EDGE_PROBE = " \n x \n "


class PromptRenderer:
    """Applies a tokenizer's chat template.

    A text is a single user turn if there is a chat template, and stands for itself if there is
    none.

    Args:
        tokenizer: A tokenizer of transformers.
        chat_template_kwargs: Passed to `apply_chat_template`; `chat_template` among them takes the
            place of the tokenizer's own.
        use_chat_template: Whether to use the tokenizer's own.
        prompt: What stands before every text that is rendered without a chat template.

    Raises:
        ArgumentError: If there are arguments, but no chat template to give them to, or if
            `tokenize` is among them.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        *,
        use_chat_template: bool = True,
        prompt: str = "",
    ) -> None:
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._kwargs: dict[str, Any] = {
            "add_generation_prompt": True,
            **(chat_template_kwargs or {}),
        }
        own = getattr(tokenizer, "chat_template", None) if use_chat_template else None
        self.has_chat_template = bool(own or self._kwargs.get("chat_template"))
        if chat_template_kwargs and not self.has_chat_template:
            raise ArgumentError(
                f"chat_template_kwargs={dict(chat_template_kwargs)!r} were given, but the "
                "tokenizer has no chat template. Give one among them, as 'chat_template'."
            )
        if "tokenize" in self._kwargs:
            raise ArgumentError("chat_template_kwargs cannot hold 'tokenize'; leave it out.")

    def render(self, prompt: Template) -> str:
        """Return a prompt as text, ready for the response to follow.

        Raises:
            TemplateError: If it is a conversation and there is no chat template, or if the chat
                template refuses it.
        """
        if not self.has_chat_template:
            return self._prompt + _as_plain_text(prompt)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False, **self._kwargs)
        except (ValueError, jinja2.TemplateError) as error:
            raise TemplateError(f"the chat template refuses {prompt!r}: {error}") from error

    def render_slots(self, template: Template) -> "RenderedTemplate":
        """Render a template once and cut it where the trigger goes.

        Raises:
            TemplateError: If the chat template drops or repeats a placeholder, besides the reasons
                of `render`.
        """
        text = self.render(template)
        for placeholder in {*_find_placeholders(template), OPTIMIZED_TRIGGER_PLACEHOLDER}:
            wanted, held = _count(template, placeholder), text.count(placeholder)
            if wanted != held:
                raise TemplateError(
                    f"the chat template renders {placeholder} {held} times, expected {wanted}: "
                    f"{text!r}. Put the placeholder into a message that the chat template writes "
                    "out."
                )
        pieces = cut_template(text)
        probes = [_EDGE_PROBE] * (max(pieces.parts) + 1)
        is_rewritten = self.render(fill_template(template, probes)) != pieces.fill(probes)
        return RenderedTemplate(
            pieces=pieces, template=template, renderer=self if is_rewritten else None
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderedTemplate:
    """A rendered template, open where the trigger goes.

    Attributes:
        pieces: What stands around the trigger's places.
        template: What was rendered.
        renderer: Set if the chat template rewrites what stands at the edges of a message, so that
            each trigger has to be rendered with its template.
    """

    pieces: TemplatePieces
    template: Template
    renderer: PromptRenderer | None

    def fill(self, triggers: Sequence[Sequence[str]]) -> list[str]:
        """Return the text that the model reads for each trigger, given by its parts."""
        if self.renderer is None:
            return [self.pieces.fill(parts) for parts in triggers]
        return [self.renderer.render(fill_template(self.template, parts)) for parts in triggers]


def _find_placeholders(template: Template) -> list[str]:
    pieces = cut_template(_text_of(template))
    return [number_placeholder(part + 1) for part in pieces.parts] if pieces.is_numbered else []


def _count(template: Template, placeholder: str) -> int:
    return _text_of(template).count(placeholder)


def _text_of(template: Template) -> str:
    if isinstance(template, str):
        return template
    return "\n".join(message["content"] for message in template)


def _as_plain_text(prompt: Template) -> str:
    if isinstance(prompt, str):
        return prompt
    raise TemplateError(
        f"the tokenizer has no chat template, so a conversation cannot be rendered: {prompt!r}. "
        "Give a text, or chat_template_kwargs={'chat_template': ...}."
    )
