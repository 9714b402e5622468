"""What goes into a model and what comes out: the field names are what losses read."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core._container import container, set_fields
from pellucid.core._errors import ContainerError
from pellucid.core._slots import TriggerSlot
from pellucid.core._states import HeldStates
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
        full_hidden_states: Residual stream after each block, of shape (batch, layer, pos, d_model);
            only the layers and positions that `held_hidden_states` names, if it is set.
        full_pre_mlp_hidden_states: Residual stream before each MLP, of the same shape.
        full_attentions: Attention patterns, of shape (batch, layer, head, query_pos, key_pos); only
            the layers and positions that `held_attentions` names, if it is set.
        generated_response_ids: Token ids of each generated response.
        generated_response_strs: Each generated response as text.
        generated_response_logits: Logits of each generated token.
        response_first_token_logprobs: For each sample, log-probabilities (nats) of the likeliest
            first tokens of a response, by the token's text.
        output_class_logits: Class logits, of shape (batch, n_classes).
        text_nll_bounds: Upper bounds on the negative log-likelihood of each text, a sum over its
            tokens, in nats, of shape (batch,).
        text_token_counts: How many tokens each bound is about, of shape (batch,).
        full_ids: Token ids of prompt and response, of shape (batch, pos).
        full_strs: Prompt and response as text.
        errors: For each sample, the error that kept it from being answered, or None.
        activations: What a loss reads of the model's insides by name, each of shape (batch, ...).
        held_hidden_states: Which layers and positions `full_hidden_states` holds; all if not set.
        held_attentions: Which layers and positions `full_attentions` holds; all if not set.
    """

    output_embeddings: Float[Tensor, "batch d_embed"] | None = None
    full_logits: Float[Tensor, "batch pos d_vocab"] | None = None
    prefill_response_logits: Float[Tensor, "batch target_pos d_vocab"] | None = None
    full_hidden_states: Float[Tensor, "batch held_layer held_pos d_model"] | None = None
    full_pre_mlp_hidden_states: Float[Tensor, "batch layer pos d_model"] | None = None
    full_attentions: Float[Tensor, "batch _ head query_pos key_pos"] | None = None
    generated_response_ids: list[Int[Tensor, " _"]] | None = None
    generated_response_strs: list[str | None] | None = None
    generated_response_logits: (
        Float[Tensor, "batch response_pos d_vocab"] | list[Float[Tensor, "_ d_vocab"]] | None
    ) = None
    response_first_token_logprobs: list[dict[str, float] | None] | None = None
    output_class_logits: Float[Tensor, "batch n_classes"] | None = None
    text_nll_bounds: Float[Tensor, " batch"] | None = None
    text_token_counts: Int[Tensor, " batch"] | None = None
    full_ids: Int[Tensor, "batch _"] | None = None
    full_strs: list[str] | None = None
    errors: list[Exception | None] | None = None
    activations: dict[str, Float[Tensor, "batch ..."]] | None = None
    held_hidden_states: HeldStates | None = None
    held_attentions: HeldStates | None = None

    def __post_init__(self) -> None:
        _check_held("full_hidden_states", self.full_hidden_states, self.held_hidden_states)
        _check_held("full_attentions", self.full_attentions, self.held_attentions)
        if self.held_hidden_states is None:
            _check_agreement("full_hidden_states", self.full_hidden_states, self)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return set_fields(self)


def _check_held(name: str, states: Tensor | None, held: HeldStates | None) -> None:
    if held is None:
        return
    if states is None:
        raise ContainerError(f"ModelOutput says what {name} holds, but {name} is not set.")
    wanted = (len(held.layers), held.n_held)
    shape = (states.shape[1], states.shape[-2])
    if shape != wanted:
        raise ContainerError(
            f"ModelOutput.{name} has {shape[0]} layers and {shape[1]} positions, but is said to "
            f"hold {wanted[0]} layers and {wanted[1]} positions."
        )


def _check_agreement(name: str, states: Tensor | None, output: ModelOutput) -> None:
    """Check that tensors over all layers, or all positions, have as many of them."""
    logits, patterns = output.full_logits, output.full_attentions
    if states is None:
        return
    if logits is not None and states.shape[2] != logits.shape[1]:
        raise ContainerError(
            f"ModelOutput.{name} expects {logits.shape[1]} positions, as full_logits has, got "
            f"{states.shape[2]}. Say in held_hidden_states which positions it holds."
        )
    patterns = patterns if output.held_attentions is None else None
    if patterns is not None and patterns.shape[1] != states.shape[1]:
        raise ContainerError(
            f"ModelOutput.full_attentions expects {states.shape[1]} layers, as {name} has, got "
            f"{patterns.shape[1]}. Say in held_attentions which layers it holds."
        )
