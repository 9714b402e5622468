"""What goes into a model and what comes out: the field names are what losses read."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core._container import container, set_fields
from pellucid.core._slots import TriggerSlot
from pellucid.core._targets import MessageTargets
from pellucid.core._template import Messages


@container
class ModelInput:
    """One template with several candidate triggers filled in, ready for one forward pass.

    Attributes:
        input_texts: The filled templates.
        input_trigger_strs: The triggers as text.
        input_ids: Token ids of the whole input, int, of shape (batch, pos).
        input_trigger_ids: Token ids of the triggers, int, of shape (batch, trigger_pos).
        input_embeds: Token embeddings, of shape (batch, pos, d_model).
        input_attention_mask: 1 where a position holds a token, of shape (batch, pos).
        input_prefix_cache_kwargs: Arguments that give the model its cached prefix.
        input_slices: Where each part of the input lies, by `SliceKey`; `SliceKey.TRIGGER` is the
            first place of a trigger that has several.
        input_trigger_slots: Every place of the trigger, first to last.
        message_targets: The targets of the template.
    """

    input_texts: list[str] | list[Messages] | None = None
    input_trigger_strs: list[str] | None = None
    input_ids: Int[Tensor, "batch pos"] | None = None
    input_trigger_ids: Int[Tensor, "batch trigger_pos"] | None = None
    input_embeds: Float[Tensor, "batch pos d_model"] | None = None
    input_attention_mask: Int[Tensor, "batch _"] | None = None
    input_prefix_cache_kwargs: dict[str, Any] | None = None
    input_slices: dict[str, slice] | None = None
    input_trigger_slots: list[TriggerSlot] | None = None
    message_targets: MessageTargets | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return set_fields(self)


@container
class ModelOutput:
    """What a forward pass or a request returned; a model sets the fields it can provide.

    Attributes:
        output_embeddings: Sentence embeddings, of shape (batch, d_embed).
        full_logits: Next-token logits of every position, of shape (batch, pos, d_vocab).
        prefill_response_logits: Logits that predict the tokens of the prefilled target, of shape
            (batch, target_pos, d_vocab).
        full_hidden_states: Residual stream after each block, of shape (batch, layer, pos, d_model).
        full_pre_mlp_hidden_states: Residual stream before each MLP, of the same shape.
        full_attentions: Attention patterns, of shape (batch, layer, head, query_pos, key_pos).
        generated_response_ids: Token ids of each generated response.
        generated_response_strs: Each generated response as text.
        generated_response_logits: Logits of each generated token.
        response_first_token_logprobs: For each sample, log-probabilities (nats) of the likeliest
            first tokens of a response, by the token's text.
        output_class_logits: Class logits, of shape (batch, n_classes).
        full_ids: Token ids of prompt and response, of shape (batch, pos).
        full_strs: Prompt and response as text.
        errors: For each sample, the error that kept it from being answered, or None.
    """

    output_embeddings: Float[Tensor, "batch d_embed"] | None = None
    full_logits: Float[Tensor, "batch pos d_vocab"] | None = None
    prefill_response_logits: Float[Tensor, "batch target_pos d_vocab"] | None = None
    full_hidden_states: Float[Tensor, "batch layer pos d_model"] | None = None
    full_pre_mlp_hidden_states: Float[Tensor, "batch layer pos d_model"] | None = None
    full_attentions: Float[Tensor, "batch layer head query_pos key_pos"] | None = None
    generated_response_ids: list[Int[Tensor, " _"]] | None = None
    generated_response_strs: list[str | None] | None = None
    generated_response_logits: (
        Float[Tensor, "batch response_pos d_vocab"] | list[Float[Tensor, "_ d_vocab"]] | None
    ) = None
    response_first_token_logprobs: list[dict[str, float] | None] | None = None
    output_class_logits: Float[Tensor, "batch n_classes"] | None = None
    full_ids: Int[Tensor, "batch _"] | None = None
    full_strs: list[str] | None = None
    errors: list[Exception | None] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return set_fields(self)
