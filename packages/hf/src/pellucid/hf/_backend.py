"""What all Hugging Face backends share: losses and gradients of triggers given as tokens."""

from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import BaseLoss, Substitutions, boundary
from pellucid.hf._gradients import (
    embed_weights,
    normalize_last,
    normalize_on_vocabulary,
    project_on_vocabulary,
    softmax_pullback,
    topk_on_vocabulary,
)
from pellucid.hf._passes import TriggerPasses
from pellucid.hf._relaxation import check_relaxation, sample_gumbel_softmax

_TokenGrad: TypeAlias = Float[Tensor, "*n_templates n_candidates trigger_pos d_vocab"]
_EmbedGrad: TypeAlias = Float[Tensor, "*n_templates n_candidates trigger_pos d_model"]
_Losses: TypeAlias = Float[Tensor, "*n_templates n_candidates"]


class HuggingFaceBackendModel(TriggerPasses):
    """The compute methods of a white-box model, on top of one `invoke_from_tokens`.

    A subclass sets `_model`, `_embedding_layer` and `_tokenizer` (and batch sizes, if it likes) in
    its constructor, and gives `set_inputs_from_tokens` and `invoke_from_tokens`. The latter is
    called by keyword with the fields of `ModelInput` that are set, with the loss's `require_*`
    options, with `count_backward`, and with `require_full_logits`; those that its signature does
    not name are left out.
    """

    @boundary
    def compute_loss_from_tokens(
        self,
        candidate_trigger_ids: Int[Tensor, "n_candidates trigger_pos"],
        loss_func: BaseLoss,
        keep_message_dim: bool = False,
    ) -> Float[Tensor, "*n_templates n_candidates"]:
        """Return the loss of each candidate, NaN made +inf, without gradients.

        Args:
            candidate_trigger_ids: Int, of shape (n_candidates, trigger_pos).
            loss_func: The loss.
            keep_message_dim: Whether to return (n_templates, n_candidates), not the mean over
                templates, (n_candidates,).

        Raises:
            InputsNotSetError: Before `set_inputs_from_tokens`.
            ArgumentError: If there is no candidate, or an id is beyond the vocabulary.
            LossResolutionError: If the loss reads what is not there.
        """
        losses = self._evaluate(self._check_candidates(candidate_trigger_ids), loss_func)
        return losses if keep_message_dim else losses.mean(dim=0)

    @boundary
    def compute_grad_from_tokens(  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        self,
        loss_func: BaseLoss,
        candidate_trigger_ids: Int[Tensor, "n_candidates trigger_pos"] | None = None,
        candidate_trigger_probs: Float[Tensor, "n_candidates trigger_pos d_vocab"] | None = None,
        *,
        do_gumbel_softmax: bool = False,
        gumbel_softmax_temp: float | None = None,
        normalize_grads: bool = False,
        keep_message_dim: bool = False,
        return_loss: bool = False,
        generator: torch.Generator | None = None,
    ) -> _TokenGrad | tuple[_TokenGrad, _Losses]:
        """Return the gradient of each candidate's loss with regard to its one-hot tokens.

        Args:
            loss_func: A differentiable loss.
            candidate_trigger_ids: Token ids, int, of shape (n_candidates, trigger_pos).
            candidate_trigger_probs: Instead of ids, a weight for each token of each position.
            do_gumbel_softmax: Whether the weights are logits, of which a relaxed sample is taken
                (Jang et al. 2017, arXiv 1611.01144); the gradient is with regard to the logits.
            gumbel_softmax_temp: The temperature of that sample.
            normalize_grads: Whether to bring the gradient of each position to length 1.
            keep_message_dim: Whether to keep a leading axis of templates, not their mean.
            return_loss: Whether to return the losses beside the gradient.
            generator: Where the Gumbel noise comes from; torch's default generator when omitted.

        Returns:
            The gradient, float32 or wider, of shape (n_candidates, trigger_pos, d_vocab), with a
            leading axis of templates if that is kept; with `return_loss`, also the losses.

        Raises:
            ArgumentError: Unless exactly one of ids and weights is given, and a positive
                temperature exactly where a sample is to be taken.
            NotDifferentiableError: (a ValueError) If the loss has no gradient.
            InputsNotSetError: Before `set_inputs_from_tokens`.
        """
        check_relaxation(
            candidate_trigger_ids, candidate_trigger_probs, do_gumbel_softmax, gumbel_softmax_temp
        )
        weights = candidate_trigger_probs
        if weights is None:
            ids = self._check_candidates(candidate_trigger_ids)
            grads, losses = self._differentiate(loss_func, self._embed(ids), ids)
            grads = project_on_vocabulary(_mean(grads, keep_message_dim), self._embedding_table)
        else:
            weights = weights.to(self.device)
            if gumbel_softmax_temp is not None:
                weights = sample_gumbel_softmax(weights, gumbel_softmax_temp, generator)
            embeds = embed_weights(weights, self._embedding_table)
            grads, losses = self._differentiate(loss_func, embeds, weights.argmax(dim=-1))
            grads = project_on_vocabulary(_mean(grads, keep_message_dim), self._embedding_table)
            if gumbel_softmax_temp is not None:
                grads = softmax_pullback(weights, grads) / gumbel_softmax_temp
        grads = normalize_last(grads) if normalize_grads else grads
        return (grads, _mean(losses, keep_message_dim)) if return_loss else grads

    @boundary
    def compute_topk_from_tokens(
        self,
        loss_func: BaseLoss,
        candidate_trigger_ids: Int[Tensor, "n_candidates trigger_pos"],
        k: int,
        allowed_ids: Int[Tensor, " n_allowed"] | None = None,
        *,
        average: bool = False,
        normalize: bool = False,
    ) -> Substitutions:
        """Return, for each position, the k tokens with the lowest gradient, lowest first.

        The same as the top of `compute_grad_from_tokens`, without a gradient for every token.

        Args:
            loss_func: A differentiable loss.
            candidate_trigger_ids: Int, of shape (n_candidates, trigger_pos).
            k: How many tokens to return for each position.
            allowed_ids: The tokens to choose from, int64, ascending; all when omitted.
            average: Whether to take the candidates' mean gradient; then n_candidates is 1 in the
                result.
            normalize: Whether to scale each position's gradient to length 1 over the vocabulary,
                before it is averaged.

        Raises:
            ArgumentError: If there are fewer than k tokens to choose from.
            NotDifferentiableError: (a ValueError) If the loss has no gradient.
            InputsNotSetError: Before `set_inputs_from_tokens`.
        """
        ids = self._check_candidates(candidate_trigger_ids)
        grads, _ = self._differentiate(loss_func, self._embed(ids), ids)
        grads = grads.mean(dim=0)
        if normalize:
            grads = normalize_on_vocabulary(grads, self._embedding_table)
        if average:
            grads = grads.mean(dim=0, keepdim=True)
        return topk_on_vocabulary(grads, self._embedding_table, k, allowed_ids)

    @boundary
    def compute_grad_from_embeds(  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        self,
        loss_func: BaseLoss,
        candidate_trigger_embeds: Float[Tensor, "n_candidates trigger_pos d_model"],
        *,
        normalize_grads: bool = False,
        keep_message_dim: bool = False,
        return_loss: bool = False,
    ) -> _EmbedGrad | tuple[_EmbedGrad, _Losses]:
        """Return the gradient of each candidate's loss with regard to its embeddings.

        Args:
            loss_func: A differentiable loss; there are no token ids for it to read.
            candidate_trigger_embeds: Of shape (n_candidates, trigger_pos, d_model).
            normalize_grads: Whether to bring the gradient of each position to length 1.
            keep_message_dim: Whether to keep a leading axis of templates, not their mean.
            return_loss: Whether to return the losses beside the gradient.

        Returns:
            The gradient, float32 or wider, of shape (n_candidates, trigger_pos, d_model), with a
            leading axis of templates if that is kept; with `return_loss`, also the losses.

        Raises:
            NotDifferentiableError: (a ValueError) If the loss has no gradient.
            InputsNotSetError: Before `set_inputs_from_tokens`.
        """
        grads, losses = self._differentiate(
            loss_func, candidate_trigger_embeds.detach().to(self.device), None
        )
        grads = _mean(grads, keep_message_dim)
        grads = normalize_last(grads) if normalize_grads else grads
        return (grads, _mean(losses, keep_message_dim)) if return_loss else grads


def _mean(values: Tensor, keep_message_dim: bool) -> Tensor:
    return values if keep_message_dim else values.mean(dim=0)
