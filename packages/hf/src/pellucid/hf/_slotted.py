"""What the backends of this package share above the compute methods: text, templates, slots."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pellucid.core import Targets, Template, check_templates, highest_part
from pellucid.hf._backend import HuggingFaceBackendModel
from pellucid.hf._codec import TextCodec
from pellucid.hf._inputs import SlottedTokenInputManager
from pellucid.hf._loading import max_positions
from pellucid.hf._prompts import PromptBatch, encode_targets, pad_rows
from pellucid.hf._rendering import PromptRenderer
from pellucid.hf._slot import choose_probes, locate_slots
from pellucid.hf._trigger_codec import Consistency, TriggerCodec


class SlottedBackend(HuggingFaceBackendModel):
    """Renders and tokenizes templates and texts alike, so that both flows agree."""

    _manager_class: ClassVar[type[SlottedTokenInputManager]]
    _padding_side: ClassVar[Literal["left", "right"]] = "left"

    _codec: TextCodec
    _renderer: PromptRenderer
    _consistency: Consistency

    def set_inputs_from_tokens(
        self, templates: Sequence[Template], targets: Targets | None = None
    ) -> None:
        """Prepare templates for a run; target responses get their token ids in a copy.

        Raises:
            TemplateError: If a template or the number of targets is not as it must be, if the chat
                template refuses a template, or if one is longer than the model's context.
            ArgumentError: (a ValueError) If a target response has no tokens.
        """
        checked = check_templates(templates, targets)
        probes = choose_probes(self._codec)
        located = [
            locate_slots(self._codec, self._renderer.render_slots(template), probes)
            for template in checked
        ]
        prefix_ids, suffix_ids = self._wrapping
        self._token_input_manager = self._manager_class(
            self.tokenizer,
            located,
            TriggerCodec(self._codec, located, probes, consistency=self._consistency),
            n_parts=highest_part(checked),
            embed_func=self._embedding_layer,
            targets=encode_targets(self._codec, targets, self.vocab_size),
            prefix_ids=prefix_ids,
            suffix_ids=suffix_ids,
            max_positions=self._max_positions,
        )

    @property
    def _max_positions(self) -> int | None:
        """How long an input may be; None if there is no limit."""
        return max_positions(self._hf_model)

    @property
    def _wrapping(self) -> tuple[list[int], list[int]]:
        """What stands around every input: a chat template brings its own special tokens."""
        if self._renderer.has_chat_template:
            return [], []
        return self._codec.prefix_ids, self._codec.suffix_ids

    @property
    def _pad_id(self) -> int:
        # Padding is masked, so any id will do where the tokenizer names none.
        hf_tokenizer: Any = self._tokenizer
        named = (hf_tokenizer.pad_token_id, hf_tokenizer.eos_token_id)
        return next((i for i in named if i is not None), 0)

    def _encode_prompts(self, prompts: Sequence[Template]) -> list[list[int]]:
        prefix_ids, suffix_ids = self._wrapping
        texts = [self._renderer.render(prompt) for prompt in prompts]
        return [[*prefix_ids, *ids, *suffix_ids] for ids in self._codec.encode(texts)]

    def _pad(self, rows: Sequence[Sequence[int]], *, limit: bool) -> PromptBatch:
        return pad_rows(
            rows,
            side=self._padding_side,
            pad_id=self._pad_id,
            device=self.device,
            max_positions=self._max_positions if limit else None,
        )
