"""What models share that make one vector of a text, whatever it stands for."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ArgumentError, MessageTargets, ModelOutput
from pellucid.hf._inputs import EncoderHFTokenInputManager
from pellucid.hf._lm_runs import single_input
from pellucid.hf._slotted import SlottedBackend


class ReadingBackend(SlottedBackend):
    """Reads texts and predicts none; a subclass says what it makes of them."""

    _manager_class = EncoderHFTokenInputManager
    _padding_side = "right"

    @abstractmethod
    def _read(self, given: Tensor, mask: Tensor | None) -> ModelOutput:
        """Run the model on ids or embeddings, padded on the right where the mask is 0."""

    def invoke_from_tokens(  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        message_targets: MessageTargets | None = None,
        require_target_prefill: bool = False,
        require_generation: bool = False,
        *,
        input_embeds: Float[Tensor, "batch pos d_model"] | None = None,
        input_attention_mask: Int[Tensor, "batch pos"] | None = None,
        count_backward: bool = False,
    ) -> ModelOutput:
        """Run one forward pass over a batch that fits.

        Args:
            input_ids: Token ids.
            message_targets: Only losses read these.
            require_target_prefill: Only language models can.
            require_generation: Only language models can.
            input_embeds: Embeddings instead of token ids.
            input_attention_mask: 0 where a row is padded, on the right; None if no row is.
            count_backward: Whether usage statistics count a backward pass as well.

        Raises:
            ArgumentError: (a ValueError) Unless exactly one of ids and embeddings is given, or if
                tokens are to be predicted.
        """
        if require_target_prefill or require_generation:
            raise ArgumentError(
                f"{type(self).__name__} predicts no tokens, so it neither prefills nor generates. "
                "Use LMHFModel, or a loss over what this model returns."
            )
        given = single_input(input_ids, input_embeds)
        mask = input_attention_mask
        n_tokens = given.shape[0] * given.shape[1] if mask is None else int(mask.sum())
        return self._read_and_count(given, mask, n_tokens=n_tokens, count_backward=count_backward)

    def invoke_from_texts(self, input_texts: Sequence[str]) -> ModelOutput:
        """Run the model on texts.

        Raises:
            ArgumentError: (a ValueError) If a text is none, has no tokens, or is longer than the
                context.
        """
        if isinstance(input_texts, str) or not all(isinstance(text, str) for text in input_texts):
            raise ArgumentError(f"input_texts must be a list of texts, got {input_texts!r}.")
        batch = self._pad(self._encode_prompts(input_texts), limit=True)
        with self._running(with_grad=torch.is_grad_enabled()):
            return self._read_and_count(batch.input_ids, batch.mask, n_tokens=batch.n_tokens)

    def _read_and_count(
        self, given: Tensor, mask: Tensor | None, *, n_tokens: int, count_backward: bool = False
    ) -> ModelOutput:
        output = self._read(given, mask)
        self._update_invoke_stats(
            n_tokens=n_tokens, n_samples=len(given), count_backward=count_backward
        )
        return output
