"""Access mixins: what a model lets an optimizer compute, named {Value}{Input}AccessMixin."""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from pellucid.core._batching import map_in_batches
from pellucid.core._errors import ArgumentError, InputsNotSetError
from pellucid.core._inputs import TextInputManager, TokenInputManager
from pellucid.core._loss import BaseLoss
from pellucid.core._model_io import ModelInput, ModelOutput
from pellucid.core._resolution import replace_nan, resolve_and_compute_loss
from pellucid.core._targets import MessageTargets, Targets
from pellucid.core._template import Template
from pellucid.core._tokenizer import as_tokenizer

NORM_FLOOR = 1e-10
"""Added to a gradient's length before dividing by it."""


class Substitutions(NamedTuple):
    """For each trigger position, the tokens that promise to lower the loss most.

    Attributes:
        token_ids: Int64, of shape (n_candidates, trigger_pos, k), the most promising first.
        scores: First-order change of the loss up to a constant for each position, float, of the
            same shape; ascending.
    """

    # Not named n_candidates: an averaged gradient has one row, however many candidates there were.
    token_ids: Int[Tensor, "_ trigger_pos k"]
    scores: Float[Tensor, "_ trigger_pos k"]


class TokenAccessMixin(ABC):
    """Triggers can be given as token ids; grants the tokenizer and nothing that is computed."""

    _token_input_manager: TokenInputManager | None = None

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """A `BaseTokenizer` or a Hugging Face tokenizer."""

    @abstractmethod
    def set_inputs_from_tokens(
        self, templates: Sequence[Template], targets: Targets | None = None
    ) -> None:
        """Prepare templates for a run; kept in `_token_input_manager`."""

    def reset_inputs_from_tokens(self) -> None:
        """Forget the templates of the last run."""
        self._token_input_manager = None

    @property
    def vocab_size(self) -> int:
        """The number of token ids that the model can be given."""
        return as_tokenizer(self.tokenizer).vocab_size

    def encode_trigger(self, trigger: str) -> Int64[Tensor, " trigger_pos"]:
        """Return a trigger's token ids as they stand in the templates, on the CPU.

        Raises:
            InputsNotSetError: Before `set_inputs_from_tokens`.
        """
        return self._set_token_inputs().encode_trigger(trigger)

    def decode_triggers(
        self, candidate_trigger_ids: Int[Tensor, "n_candidates trigger_pos"]
    ) -> list[str]:
        """Return the texts that, filled into the templates, stand for these token ids.

        Raises:
            InputsNotSetError: Before `set_inputs_from_tokens`.
        """
        return self._set_token_inputs().decode_triggers(candidate_trigger_ids)

    def retokenization_mask(
        self, candidate_trigger_ids: Int[Tensor, "n_candidates trigger_pos"]
    ) -> Bool[Tensor, " n_candidates"]:
        """Say which candidates mean the same as text, on the CPU.

        Raises:
            InputsNotSetError: Before `set_inputs_from_tokens`.
        """
        return self._set_token_inputs().retokenization_mask(candidate_trigger_ids)

    def arrange_parts(self, lengths: Sequence[int]) -> None:
        """Say how many tokens each part of the trigger has, where the templates number parts.

        Raises:
            ArgumentError: If there are too few lengths, or one is less than 1.
            InputsNotSetError: Before `set_inputs_from_tokens`.
        """
        self._set_token_inputs().arrange_parts(lengths)

    def encode_trigger_parts(self, trigger: str) -> list[Int64[Tensor, " _"]]:
        """Return the token ids of each part of a trigger, on the CPU; one part if it has none.

        Raises:
            ArgumentError: If the trigger has fewer parts than the templates number.
            InputsNotSetError: Before `set_inputs_from_tokens`.
        """
        return self._set_token_inputs().encode_parts(trigger)

    def check_trigger_length(self, n_tokens: int) -> None:
        """Refuse triggers that are too long for the model in these templates.

        Raises:
            TemplateError: If they are.
            InputsNotSetError: Before `set_inputs_from_tokens`.
        """
        self._set_token_inputs().check_trigger_length(n_tokens)

    def tokenization_gap(self, trigger_ids: Int[Tensor, " trigger_pos"]) -> int:
        """Return how many tokens differ between a trigger given as text and these token ids.

        Raises:
            InputsNotSetError: Before `set_inputs_from_tokens`.
        """
        return self._set_token_inputs().tokenization_gap(trigger_ids)

    def _set_token_inputs(self) -> Any:
        if self._token_input_manager is None:
            raise InputsNotSetError(
                f"{type(self).__name__} has no inputs. "
                "Call set_inputs_from_tokens(templates, targets) first."
            )
        return self._token_input_manager


class InvokeTokenAccessMixin(TokenAccessMixin):
    """A raw forward pass from token ids or embeddings."""

    @abstractmethod
    def invoke_from_tokens(
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        message_targets: MessageTargets | None = None,
        require_target_prefill: bool = False,
        require_generation: bool = False,
        **kwargs: Any,
    ) -> ModelOutput:
        """Run one forward pass over a batch that fits; no batching here."""


class LossTokenAccessMixin(InvokeTokenAccessMixin):
    """Grey-box access: losses of triggers given as token ids."""

    @abstractmethod
    def compute_loss_from_tokens(
        self,
        candidate_trigger_ids: Int[Tensor, "n_candidates trigger_pos"],
        loss_func: BaseLoss,
        keep_message_dim: bool = False,
    ) -> Float[Tensor, "*n_templates n_candidates"]:
        """Return the loss of each candidate, NaN made +inf, without gradients.

        Args:
            candidate_trigger_ids: Int64, of shape (n_candidates, trigger_pos).
            loss_func: The loss.
            keep_message_dim: Whether to return (n_templates, n_candidates), not the mean over
                templates, (n_candidates,).
        """


class LogitsTokenAccessMixin(InvokeTokenAccessMixin):
    """White-box access: logits of triggers given as token ids."""

    @abstractmethod
    def compute_logits_from_tokens(
        self,
        candidate_trigger_ids: Int[Tensor, "n_candidates trigger_pos"],
        keep_message_dim: bool = False,
        return_trigger_logits_only: bool = False,
        return_after_trigger_logits_only: bool = False,
    ) -> Float[Tensor, "*n_templates n_candidates pos d_vocab"]:
        """Return next-token logits, averaged over templates unless `keep_message_dim`.

        Args:
            candidate_trigger_ids: Int64, of shape (n_candidates, trigger_pos).
            keep_message_dim: Whether to keep the leading axis of templates.
            return_trigger_logits_only: Only the logits that predict the trigger's tokens, where
                each first stands.
            return_after_trigger_logits_only: Only those that predict the token after it, where it
                first stands; a trigger of several parts has none.
        """


class GradientTokenAccessMixin(InvokeTokenAccessMixin):
    """White-box access: gradients of the loss with regard to one-hot tokens."""

    @abstractmethod
    def compute_grad_from_tokens(
        self,
        loss_func: BaseLoss,
        candidate_trigger_ids: Int[Tensor, "n_candidates trigger_pos"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the gradient, float, of shape (n_candidates, trigger_pos, d_vocab).

        Args:
            loss_func: A differentiable loss.
            candidate_trigger_ids: Int64, of shape (n_candidates, trigger_pos).
            **kwargs: What the backend knows; `candidate_trigger_probs=`, which every backend knows,
                gives weights for all tokens at each position in the place of token ids, float, of
                shape (n_candidates, trigger_pos, d_vocab).
        """

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
        """Return, for each position, the k tokens with the lowest gradient.

        This is all that GCG-like methods need of the gradient; a backend overrides it to keep
        vocabulary-sized tensors to itself.

        Args:
            loss_func: A differentiable loss.
            candidate_trigger_ids: Int64, of shape (n_candidates, trigger_pos).
            k: How many tokens to return for each position.
            allowed_ids: The tokens to choose from, int64, ascending; all when omitted.
            average: Whether to take the candidates' mean gradient; then n_candidates is 1 in the
                result.
            normalize: Whether to scale each position's gradient to length 1 over the vocabulary,
                before it is averaged.

        Raises:
            ArgumentError: If there are fewer than k tokens to choose from.
        """
        grad = self.compute_grad_from_tokens(loss_func, candidate_trigger_ids)
        if normalize:
            grad = grad / (grad.norm(dim=-1, keepdim=True) + NORM_FLOOR)
        if average:
            grad = grad.mean(dim=0, keepdim=True)
        return select_topk(grad, k, allowed_ids)


class GradientEmbedAccessMixin(InvokeTokenAccessMixin):
    """White-box access: gradients of the loss with regard to trigger embeddings."""

    @property
    @abstractmethod
    def embedding_matrix(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding of each token id as the model uses it, positions not included."""

    @abstractmethod
    def compute_grad_from_embeds(
        self,
        loss_func: BaseLoss,
        candidate_trigger_embeds: Float[Tensor, "n_candidates trigger_pos d_model"],
        **kwargs: Any,
    ) -> Any:
        """Return the gradient, float, of shape (n_candidates, trigger_pos, d_model).

        Args:
            loss_func: A differentiable loss.
            candidate_trigger_embeds: Of shape (n_candidates, trigger_pos, d_model).
            **kwargs: What the backend knows; `return_loss=True`, which every backend knows, asks
                for a pair of the gradient and the losses, of shape (n_candidates,).
        """


class TextAccessMixin:
    """Triggers can be given as text."""

    _text_input_manager: TextInputManager | None = None

    def set_inputs_from_texts(
        self, templates: Sequence[Template], targets: Targets | None = None
    ) -> None:
        """Prepare templates for a run.

        Raises:
            TemplateError: If a template or the number of targets is not as it must be.
        """
        self._text_input_manager = TextInputManager(templates, targets)

    def reset_inputs_from_texts(self) -> None:
        """Forget the templates of the last run."""
        self._text_input_manager = None


class LossTextAccessMixin(TextAccessMixin):
    """Black-box access: losses of triggers given as text. Needs nothing but `invoke_from_texts`."""

    _forward_pass_batch_size: int

    def compute_loss_from_texts(
        self,
        candidate_trigger_strs: list[str],
        loss_func: BaseLoss,
        keep_message_dim: bool = False,
    ) -> Float[Tensor, "*n_templates n_candidates"]:
        """Return the loss of each candidate, NaN made +inf, without gradients.

        Args:
            candidate_trigger_strs: The candidates.
            loss_func: The loss.
            keep_message_dim: Whether to return (n_templates, n_candidates), not the mean over
                templates, (n_candidates,).

        Raises:
            ArgumentError: If there are no candidates.
            InputsNotSetError: Before `set_inputs_from_texts`.
            LossResolutionError: If the model does not provide what the loss reads.
        """
        if not candidate_trigger_strs:
            raise ArgumentError("candidate_trigger_strs is empty. Pass at least one candidate.")
        inputs = self._text_input_manager
        if inputs is None:
            raise InputsNotSetError(
                f"{type(self).__name__} has no inputs. "
                "Call set_inputs_from_texts(templates, targets) first."
            )
        with torch.set_grad_enabled(loss_func.require_gradients):
            rows = [
                self._compute_template_loss(inputs, i, candidate_trigger_strs, loss_func)
                for i in range(inputs.n_templates)
            ]
        losses = torch.stack(rows).detach()
        return losses if keep_message_dim else losses.mean(dim=0)

    def _compute_template_loss(
        self, inputs: TextInputManager, template_idx: int, triggers: list[str], loss_func: BaseLoss
    ) -> Float[Tensor, " n_candidates"]:
        def compute(rows: slice) -> Tensor:
            model_input = inputs.get_triggered_inputs(template_idx, triggers[rows])
            output = self._invoke_for_loss(model_input, loss_func)
            return replace_nan(resolve_and_compute_loss(output, model_input, loss_func))

        parts = map_in_batches(
            compute, len(triggers), owner=self, size_attribute="_forward_pass_batch_size"
        )
        return torch.cat(parts)

    def _invoke_for_loss(self, model_input: ModelInput, loss_func: BaseLoss) -> ModelOutput:
        given = {"message_targets": model_input.message_targets, **loss_func.options()}
        accepted = _accepted_names(type(self))
        kwargs = {name: given[name] for name in given if accepted is None or name in accepted}
        return getattr(self, "invoke_from_texts")(model_input.input_texts, **kwargs)  # noqa: B009


def select_topk(
    grad: Float[Tensor, "n_candidates trigger_pos d_vocab"],
    k: int,
    allowed_ids: Int[Tensor, " n_allowed"] | None = None,
) -> Substitutions:
    """Return the k tokens of lowest gradient for each position, lowest first.

    Args:
        grad: Gradient with regard to one-hot tokens.
        k: How many tokens.
        allowed_ids: The tokens to choose from, ascending; all when omitted.

    Raises:
        ArgumentError: If there are fewer than k tokens to choose from, or k is less than 1.
    """
    if allowed_ids is not None:
        allowed_ids = allowed_ids.to(grad.device)
        grad = grad[..., allowed_ids]
    if not 1 <= k <= grad.shape[-1]:
        raise ArgumentError(
            f"k must lie between 1 and the {grad.shape[-1]} tokens to choose from, got {k}."
        )
    scores, columns = grad.topk(k, dim=-1, largest=False, sorted=True)
    return Substitutions(columns if allowed_ids is None else allowed_ids[columns], scores)


@functools.cache
def _accepted_names(model_type: type) -> frozenset[str] | None:
    parameters = inspect.signature(getattr(model_type, "invoke_from_texts")).parameters  # noqa: B009
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return frozenset(parameters)
