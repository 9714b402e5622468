"""A language model of some ten thousand weights that runs in milliseconds."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import (
    ArgumentError,
    BaseTokenizer,
    Flow,
    LMBaseModel,
    LogitsTokenAccessMixin,
    MessageTargets,
    ModelOutput,
    Provides,
    Template,
    first_places,
)
from pellucid.testing._tiny_inputs import target_ids
from pellucid.testing._tiny_model import TinyModel
from pellucid.testing._tiny_tokenizer import BOS, EOS, PAD, TinyTokenizer
from pellucid.testing._tiny_weights import LMWeights

_N_LOGPROBS = 20

_LOGITS = {
    "full_logits": (),
    "prefill_response_logits": ("require_target_prefill",),
    "full_hidden_states": ("require_hidden_states",),
    "full_attentions": ("require_attentions",),
    "input_slices": (),
    "input_trigger_slots": (),
}
_RESPONSES = {
    "generated_response_ids": ("require_generation",),
    "generated_response_strs": ("require_generation",),
    "generated_response_logits": ("require_generation",),
    "response_first_token_logprobs": ("require_first_token_logprobs",),
}
_PROVIDES: Provides = {
    Flow.TEXTS: {"prefill_response_logits": ("require_target_prefill",), **_RESPONSES},
    Flow.TOKENS: {**_LOGITS, **_RESPONSES, "input_ids": ()},
    Flow.EMBEDS: {**_LOGITS, **_RESPONSES, "input_embeds": ()},
}


class TinyLM(TinyModel, LMBaseModel, LogitsTokenAccessMixin):
    """A random language model with every access there is; a stand-in for a backend, in torch alone.

    A text is given to it as it is; a conversation becomes lines of "role: content". Every input
    begins with one <bos>. Both flows compute the same: a trigger given as tokens and as text has
    the same loss wherever `retokenization_mask` is true. Generation is greedy, and answers the
    prompt alone, whether or not a target is prefilled.

    Args:
        seed: Of the weights; no global generator is touched.
        d_model: The width of embeddings and residual stream.
        dtype: Of the weights; float64 makes finite differences exact.
        padded_rows: Rows of the embedding table that no token of the tokenizer has.
        tokenizer: A `BaseTokenizer` in which 0 to 2 are padding, beginning and end.
        max_new_tokens: How long a response may grow.
    """

    provides = _PROVIDES

    def __init__(
        self,
        seed: int = 0,
        *,
        d_model: int = 16,
        dtype: torch.dtype = torch.float32,
        padded_rows: int = 0,
        tokenizer: BaseTokenizer | None = None,
        max_new_tokens: int = 8,
    ) -> None:
        self._tokenizer = tokenizer if tokenizer is not None else TinyTokenizer()
        self._prefix_ids = (BOS,)
        self._max_new_tokens = max_new_tokens
        d_vocab = self._tokenizer.vocab_size + padded_rows
        generator = torch.Generator().manual_seed(seed)
        self._model = LMWeights(d_vocab, d_model, padded_rows, generator).to(dtype)
        self._model_name = f"tiny-lm-{seed}"

    @property
    def embedding_matrix(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding of each token, positions not included."""
        return self._model.get_parameter("embedding")

    def render(self, template: Template) -> str:
        """Return a text as it is, and a conversation as lines that end with "assistant: "."""
        if isinstance(template, str):
            return template
        lines = [f"{message['role']}: {message['content']}\n" for message in template]
        return "".join([*lines, "assistant: "])

    def invoke_from_texts(  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        self,
        input_texts: Sequence[Template],
        message_targets: MessageTargets | None = None,
        require_target_prefill: bool = False,
        require_generation: bool = False,
        *,
        require_first_token_logprobs: bool = False,
        max_new_tokens: int | None = None,
    ) -> ModelOutput:
        """Run one forward pass over texts of any lengths.

        Args:
            input_texts: Prompts or conversations.
            message_targets: The target response, if it is to be prefilled.
            require_target_prefill: Whether to return the logits that predict it.
            require_generation: Whether to generate responses.
            require_first_token_logprobs: Whether to say which first tokens are likeliest.
            max_new_tokens: How long a response may grow, if not as long as usual.

        Raises:
            ArgumentError: If a target is to be prefilled, and there is none.
        """
        prompts = [[BOS, *self._tokenizer.encode(self.render(text))] for text in input_texts]
        target = self._encode_target(message_targets) if require_target_prefill else []
        rows = [prompt + target for prompt in prompts]
        width = max(map(len, rows))
        input_ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
        fields = self._run(
            self.embedding_matrix[input_ids],
            torch.tensor([len(prompt) for prompt in prompts]),
            len(target),
            require_generation=require_generation,
            require_first_token_logprobs=require_first_token_logprobs,
            max_new_tokens=max_new_tokens,
        )
        del fields["full_logits"]  # rows differ in length, so no position means one thing
        self._update_invoke_stats(n_tokens=sum(map(len, rows)), n_samples=len(rows))
        return ModelOutput(**fields)

    def invoke_from_tokens(
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        message_targets: MessageTargets | None = None,
        require_target_prefill: bool = False,
        require_generation: bool = False,
        **kwargs: Any,
    ) -> ModelOutput:
        """Run one forward pass over token ids; see `invoke_from_embeds`.

        Raises:
            ArgumentError: If there are no token ids, or `invoke_from_embeds` raises it.
        """
        del message_targets  # the target's tokens are among the ids already
        if input_ids is None:
            raise ArgumentError("input_ids must be given; embeddings go to invoke_from_embeds.")
        return self.invoke_from_embeds(
            self.embedding_matrix[input_ids],
            require_target_prefill=require_target_prefill,
            require_generation=require_generation,
            **kwargs,
        )

    def invoke_from_embeds(
        self,
        input_embeds: Float[Tensor, "batch pos d_model"],
        *,
        input_slices: dict[str, slice] | None = None,
        require_target_prefill: bool = False,
        count_backward: bool = False,
        **options: Any,
    ) -> ModelOutput:
        """Run one forward pass from embeddings.

        Args:
            input_embeds: Of shape (batch, pos, d_model).
            input_slices: Where the parts lie; "appended" is the prefilled target.
            require_target_prefill: Whether to return the logits that predict it.
            count_backward: Whether a backward pass will follow.
            **options: Further `require_*` options of `BaseLoss`, and `max_new_tokens`.

        Raises:
            ArgumentError: If the target's place is missing.
        """
        batch, n_pos = input_embeds.shape[:2]
        appended = (input_slices or {}).get("appended", slice(n_pos, n_pos))
        n_target = appended.stop - appended.start
        if require_target_prefill and not n_target:
            raise ArgumentError("require_target_prefill needs the target's place in input_slices.")
        prompt_lengths = torch.full((batch,), n_pos - n_target)
        fields = self._run(input_embeds, prompt_lengths, n_target, **options)
        self._update_invoke_stats(
            n_tokens=batch * n_pos, n_samples=batch, count_backward=count_backward
        )
        return ModelOutput(**fields)

    def compute_logits_from_tokens(
        self,
        candidate_trigger_ids: Int[Tensor, "n_candidates trigger_pos"],
        keep_message_dim: bool = False,
        return_trigger_logits_only: bool = False,
        return_after_trigger_logits_only: bool = False,
    ) -> Float[Tensor, "*n_templates n_candidates pos d_vocab"]:
        """Return next-token logits, averaged over templates unless `keep_message_dim`.

        Raises:
            ArgumentError: If both parts are asked for, if whole inputs are and templates differ in
                length, or if what follows a trigger of several parts is.
        """
        if return_trigger_logits_only and return_after_trigger_logits_only:
            raise ArgumentError("ask for the trigger's logits or for those after it, not for both.")
        inputs, only_after = self._set_token_inputs(), return_after_trigger_logits_only
        if only_after and inputs.n_parts > 1:
            raise ArgumentError("what follows a trigger of several parts is not one token.")
        if not (return_trigger_logits_only or only_after or inputs.has_one_length):
            raise ArgumentError(
                "templates differ in length, so their positions do not match. Ask for the "
                "trigger's logits, or for those after it."
            )

        def compute(template_idx: int, rows: slice) -> Tensor:
            filled = inputs.get_triggered_inputs(template_idx, candidate_trigger_ids[rows])
            logits: Any = self.invoke_from_tokens(filled.input_ids).full_logits
            slots: Any = filled.input_trigger_slots
            if return_trigger_logits_only:
                places = first_places(slots, candidate_trigger_ids.shape[1])
                return logits[:, [place - 1 for place in places]]
            end = slots[0].positions.stop
            return logits[:, end - 1 : end] if only_after else logits

        size = "_forward_pass_batch_size"
        with torch.no_grad():
            logits = self._stack_templates(compute, len(candidate_trigger_ids), size)
        return logits if keep_message_dim else logits.mean(dim=0)

    def _run(
        self,
        embeds: Float[Tensor, "batch pos d_model"],
        prompt_lengths: Int[Tensor, " batch"],
        n_target: int,
        *,
        require_generation: bool = False,
        require_hidden_states: bool = False,
        require_attentions: bool = False,
        require_first_token_logprobs: bool = False,
        max_new_tokens: int | None = None,
    ) -> dict[str, Any]:
        """Return the fields of `ModelOutput` for prompts that a target may follow."""
        found = self._model(embeds)
        rows = torch.arange(len(embeds))[:, None]
        places = prompt_lengths[:, None] - 1 + torch.arange(max(n_target, 1))
        answers = found.logits[rows, places]
        fields: dict[str, Any] = {"full_logits": found.logits}
        if n_target:
            fields["prefill_response_logits"] = answers
        if require_hidden_states:
            fields["full_hidden_states"] = found.hidden[:, None]
        if require_attentions:
            fields["full_attentions"] = found.attention[:, None, None]
        if require_first_token_logprobs:
            fields["response_first_token_logprobs"] = self._name_likeliest(answers[:, 0])
        if require_generation:
            length = self._max_new_tokens if max_new_tokens is None else max_new_tokens
            fields.update(self._generate(embeds, prompt_lengths, length))
        return fields

    def _generate(
        self,
        embeds: Float[Tensor, "batch pos d_model"],
        lengths: Int[Tensor, " batch"],
        max_new_tokens: int,
    ) -> dict[str, Any]:
        """Answer prompts token by token; the naive way, with a whole pass for each."""
        rows = torch.arange(len(embeds))
        room = embeds.new_zeros(len(embeds), max_new_tokens, embeds.shape[-1])
        embeds = torch.cat([embeds, room], dim=1)
        logits: list[Tensor] = []
        for step in range(max_new_tokens):
            logits.append(self._model(embeds).logits[rows, lengths + step - 1])
            embeds = embeds.index_put(
                (rows, lengths + step), self.embedding_matrix[logits[-1].argmax(dim=-1)]
            )
        return self._cut_responses(torch.stack(logits, dim=1))

    def _cut_responses(self, logits: Float[Tensor, "batch response_pos d_vocab"]) -> dict[str, Any]:
        """End each response with its first <eos>."""
        ids = logits.argmax(dim=-1)
        ends = [row.index(EOS) + 1 if EOS in row else len(row) for row in ids.tolist()]
        responses = [row[:end] for row, end in zip(ids, ends, strict=True)]
        return {
            "generated_response_ids": responses,
            "generated_response_strs": [self._tokenizer.decode_trigger(row) for row in responses],
            "generated_response_logits": [row[:end] for row, end in zip(logits, ends, strict=True)],
        }

    def _name_likeliest(
        self, logits: Float[Tensor, "batch d_vocab"]
    ) -> list[dict[str, float] | None]:
        top = logits.detach().log_softmax(dim=-1).topk(_N_LOGPROBS, dim=-1)
        return [
            {self._tokenizer.decode([i]): value for i, value in zip(ids, values, strict=True)}
            for ids, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    def _encode_target(self, targets: MessageTargets | None) -> list[int]:
        if targets is not None and targets.target_response_toks is None:
            return self._tokenizer.encode(targets.target_response_strs or "")
        return target_ids(targets).tolist()
