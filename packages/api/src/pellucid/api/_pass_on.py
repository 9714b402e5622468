"""A model that is none: what it is given is all that a loss may read."""

from collections.abc import Sequence
from typing import Any

from pellucid.api._extras import import_extra
from pellucid.core import (
    ArgumentError,
    BaseModel,
    BaseTokenizer,
    DefaultTokenInputManager,
    Flow,
    LossTextAccessMixin,
    ModelOutput,
    Provides,
    Targets,
    Template,
    TokenAccessMixin,
    as_tokenizer,
    check_templates,
)


class PassOnModel(BaseModel, LossTextAccessMixin, TokenAccessMixin):
    """Passes its inputs on to the loss: for losses that ask an oracle of their own.

    Such a loss reads `input_texts` or `input_trigger_strs`, and nothing is computed here.

    Args:
        tokenizer: What triggers are made of: a `BaseTokenizer`, a Hugging Face tokenizer, or the
            name of one.

    Raises:
        ArgumentError: (a ValueError) If it is none of these.
        MissingDependencyError: (an ImportError) If a name is given without transformers.
    """

    provides: Provides | None = {Flow.TEXTS: {}}  # noqa: RUF012 - never changed

    def __init__(self, tokenizer: Any) -> None:
        if isinstance(tokenizer, str):
            transformers = import_extra("transformers", extra="hf")
            tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer)
        self._tokenizer = as_tokenizer(tokenizer)

    @property
    def tokenizer(self) -> BaseTokenizer:
        """What triggers are made of."""
        return self._tokenizer

    def set_inputs_from_tokens(
        self, templates: Sequence[Template], targets: Targets | None = None
    ) -> None:
        """Prepare templates for a run; triggers are decoded and filled in as text.

        Raises:
            TemplateError: (a ValueError) If a template is not as it must be.
        """
        checked = check_templates(templates, targets)
        if not all(isinstance(template, str) for template in checked):
            raise ArgumentError("a template is a conversation, which has no token ids of its own.")
        ids = [self._tokenizer.encode(str(template)) for template in checked]
        self._token_input_manager = DefaultTokenInputManager(self._tokenizer, ids, targets)

    def invoke_from_texts(self, input_texts: Sequence[Template]) -> ModelOutput:
        """Count the tokens of texts, and return nothing."""
        texts = [
            text if isinstance(text, str) else "\n".join(message["content"] for message in text)
            for text in input_texts
        ]
        n_tokens = sum(len(row) for row in self._tokenizer.batch_encode(texts))
        self._update_invoke_stats(n_tokens=n_tokens, n_samples=len(texts))
        return ModelOutput()

    def __call__(self, input_texts: Sequence[Template], **kwargs: Any) -> ModelOutput:
        """Return what `invoke_from_texts` does."""
        return self.invoke_from_texts(input_texts, **kwargs)
