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
    fill_template,
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
    ) -> None:
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
            return _as_plain_text(prompt)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False, **self._kwargs)
        except (ValueError, jinja2.TemplateError) as error:
            raise TemplateError(f"the chat template refuses {prompt!r}: {error}") from error

    def render_slot(self, template: Template) -> "RenderedSlot":
        """Render a template once and split it where the trigger goes.

        Raises:
            TemplateError: If the chat template drops or repeats the placeholder, besides the
                reasons of `render`.
        """
        text = self.render(template)
        if text.count(OPTIMIZED_TRIGGER_PLACEHOLDER) != 1:
            raise TemplateError(
                f"the chat template renders {OPTIMIZED_TRIGGER_PLACEHOLDER} "
                f"{text.count(OPTIMIZED_TRIGGER_PLACEHOLDER)} times, expected once: {text!r}. "
                "Put the placeholder into a message that the chat template writes out."
            )
        before, after = text.split(OPTIMIZED_TRIGGER_PLACEHOLDER)
        probed = self.render(fill_template(template, _EDGE_PROBE))
        return RenderedSlot(
            before=before,
            after=after,
            template=template,
            renderer=None if probed == before + _EDGE_PROBE + after else self,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderedSlot:
    """A rendered template, open where the trigger goes.

    Attributes:
        before: What stands before the trigger.
        after: What stands after it.
        template: What was rendered.
        renderer: Set if the chat template rewrites what stands at the edges of a message, so that
            each trigger has to be rendered with its template.
    """

    before: str
    after: str
    template: Template
    renderer: PromptRenderer | None

    def fill(self, triggers: Sequence[str]) -> list[str]:
        """Return the text that the model reads for each trigger."""
        if self.renderer is None:
            return [self.before + trigger + self.after for trigger in triggers]
        return [self.renderer.render(fill_template(self.template, t)) for t in triggers]


def _as_plain_text(prompt: Template) -> str:
    if isinstance(prompt, str):
        return prompt
    raise TemplateError(
        f"the tokenizer has no chat template, so a conversation cannot be rendered: {prompt!r}. "
        "Give a text, or chat_template_kwargs={'chat_template': ...}."
    )
