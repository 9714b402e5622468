"""What the tiny models share: the compute methods of a white-box model, in their plainest form."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    BaseModel,
    BaseTokenizer,
    GradientEmbedAccessMixin,
    GradientTokenAccessMixin,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    ModelInput,
    ModelOutput,
    NotDifferentiableError,
    Targets,
    Template,
    map_in_batches,
    replace_nan,
    resolve_and_compute_loss,
)
from pellucid.testing._tiny_inputs import TinyTokenInputManager, tokenize_targets

_NORM_FLOOR = 1e-10


class TinyModel(
    BaseModel,
    LossTokenAccessMixin,
    GradientTokenAccessMixin,
    GradientEmbedAccessMixin,
    LossTextAccessMixin,
):
    """A white-box model written by hand: no prefix cache, no shortcut, one template after another.

    Subclasses give the weights, the tokenizer and the two invoke methods.
    """

    _model: nn.Module
    _tokenizer: BaseTokenizer
    _prefix_ids: Sequence[int] = ()

    @property
    @abstractmethod
    def embedding_matrix(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding of each token."""

    @abstractmethod
    def render(self, template: Template) -> str:
        """Make one text of a text or a conversation."""

    @abstractmethod
    def invoke_from_embeds(
        self, input_embeds: Float[Tensor, "batch pos d_model"], **options: Any
    ) -> ModelOutput:
        """Run one forward pass from embeddings."""

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return self.embedding_matrix.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are held, and computed with, in."""
        return self.embedding_matrix.dtype

    @property
    def tokenizer(self) -> BaseTokenizer:
        """The tokenizer."""
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table, padded ones included."""
        return self.embedding_matrix.shape[0]

    def set_inputs_from_tokens(
        self, templates: Sequence[Template], targets: Targets | None = None
    ) -> None:
        """Prepare templates for a run.

        Raises:
            TemplateError: If a template or the number of targets is not as it must be.
        """
        self._token_input_manager = TinyTokenInputManager(
            self._tokenizer,
            templates,
            tokenize_targets(self._tokenizer, targets),
            render=self.render,
            prefix_ids=self._prefix_ids,
        )

    def set_inputs_from_texts(
        self, templates: Sequence[Template], targets: Targets | None = None
    ) -> None:
        """Prepare templates for a run; target responses get their token ids here, too.

        Raises:
            TemplateError: If a template or the number of targets is not as it must be.
        """
        super().set_inputs_from_texts(templates, tokenize_targets(self._tokenizer, targets))

    def compute_loss_from_tokens(
        self,
        candidate_trigger_ids: Int[Tensor, "n_candidates trigger_pos"],
        loss_func: BaseLoss,
        keep_message_dim: bool = False,
    ) -> Float[Tensor, "*n_templates n_candidates"]:
        """Return the loss of each candidate, NaN made +inf, without gradients.

        Raises:
            ArgumentError: If there are no candidates.
        """
        inputs = self._set_token_inputs()
        if not len(candidate_trigger_ids):
            raise ArgumentError("candidate_trigger_ids is empty. Pass at least one candidate.")

        def compute(template_idx: int, rows: slice) -> Tensor:
            model_input = inputs.get_triggered_inputs(
                template_idx,
                candidate_trigger_ids[rows],
                append_target=loss_func.require_target_prefill,
            )
            fields = model_input.to_dict()
            output = self.invoke_from_tokens(
                fields["input_ids"],
                message_targets=model_input.message_targets,
                input_slices=fields["input_slices"],
                **loss_func.options(),
            )
            return replace_nan(resolve_and_compute_loss(output, model_input, loss_func))

        size = "_forward_pass_batch_size"
        with torch.set_grad_enabled(loss_func.require_gradients):
            losses = self._stack_templates(compute, len(candidate_trigger_ids), size).detach()
        return losses if keep_message_dim else losses.mean(dim=0)

    def compute_grad_from_tokens(  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        self,
        loss_func: BaseLoss,
        candidate_trigger_ids: Int[Tensor, "n_candidates trigger_pos"] | None = None,
        *,
        candidate_trigger_probs: Float[Tensor, "n_candidates trigger_pos d_vocab"] | None = None,
        normalize_grads: bool = False,
        keep_message_dim: bool = False,
        return_loss: bool = False,
    ) -> Any:
        """Return the gradient of the loss with regard to one-hot tokens.

        Args:
            loss_func: A differentiable loss.
            candidate_trigger_ids: Token ids, int, of shape (n_candidates, trigger_pos).
            candidate_trigger_probs: Instead of token ids, a weight for each token of each position.
            normalize_grads: Whether to bring the gradient of each position to length 1.
            keep_message_dim: Whether to keep a leading axis of templates, not their mean.
            return_loss: Whether to return the losses beside the gradient.

        Returns:
            The gradient, (n_candidates, trigger_pos, d_vocab); with `return_loss`, also the losses.

        Raises:
            ArgumentError: Unless exactly one of token ids and weights is given.
            NotDifferentiableError: (a ValueError) If the loss has no gradient.
        """
        if (candidate_trigger_ids is None) == (candidate_trigger_probs is None):
            raise ArgumentError("give either candidate_trigger_ids or candidate_trigger_probs.")
        ids, probs = candidate_trigger_ids, candidate_trigger_probs
        if ids is not None:
            probs = torch.nn.functional.one_hot(ids.long(), self.vocab_size).to(self.dtype)
        elif probs is not None:
            ids = probs.argmax(dim=-1)
        grads, losses = self._differentiate(
            loss_func, probs, lambda weights: weights.to(self.dtype) @ self.embedding_matrix, ids
        )
        return _finish(grads, losses, normalize_grads, keep_message_dim, return_loss)

    def compute_grad_from_embeds(  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        self,
        loss_func: BaseLoss,
        candidate_trigger_embeds: Float[Tensor, "n_candidates trigger_pos d_model"],
        *,
        normalize_grads: bool = False,
        keep_message_dim: bool = False,
        return_loss: bool = False,
    ) -> Any:
        """Return the gradient of the loss with regard to trigger embeddings.

        Args:
            loss_func: A differentiable loss; it cannot read token ids here.
            candidate_trigger_embeds: Of shape (n_candidates, trigger_pos, d_model).
            normalize_grads: Whether to bring the gradient of each position to length 1.
            keep_message_dim: Whether to keep a leading axis of templates, not their mean.
            return_loss: Whether to return the losses beside the gradient.

        Returns:
            The gradient, (n_candidates, trigger_pos, d_model); with `return_loss`, also the losses.

        Raises:
            NotDifferentiableError: (a ValueError) If the loss has no gradient.
        """
        grads, losses = self._differentiate(
            loss_func, candidate_trigger_embeds, lambda embeds: embeds.to(self.dtype), None
        )
        return _finish(grads, losses, normalize_grads, keep_message_dim, return_loss)

    def _differentiate(
        self, loss_func: BaseLoss, leaf: Any, embed: Callable[[Tensor], Tensor], ids: Any
    ) -> tuple[Tensor, Tensor]:
        """Return gradients (n_templates, n_candidates, ...) and losses (n_templates, ...)."""
        if not loss_func.is_differentiable:
            raise NotDifferentiableError(
                f"{type(loss_func).__name__} has no gradient. Use a differentiable loss."
            )
        inputs = self._set_token_inputs()
        losses: list[Tensor] = []

        def compute(template_idx: int, rows: slice) -> Tensor:
            part = leaf[rows].detach().clone().requires_grad_()
            # Without ids, as in the flow of embeddings, zeros stand where the trigger is to be.
            part_ids = torch.zeros(part.shape[:2], dtype=torch.int64) if ids is None else ids[rows]
            filled = inputs.get_triggered_inputs(
                template_idx, part_ids, append_target=loss_func.require_target_prefill
            )
            embeds = self._replace_trigger(filled, embed(part))
            model_input = _hide_ids(filled, embeds) if ids is None else filled
            output = self.invoke_from_embeds(
                embeds,
                input_slices=filled.input_slices,
                count_backward=True,
                **loss_func.options(),
            )
            part_losses = resolve_and_compute_loss(output, model_input, loss_func)
            losses.append(replace_nan(part_losses.detach()))
            return torch.autograd.grad(part_losses.sum(), part)[0]

        with torch.enable_grad():
            grads = self._stack_templates(compute, len(leaf), "_backward_pass_batch_size")
        return grads, torch.cat(losses).unflatten(0, (inputs.n_templates, -1))

    def _replace_trigger(
        self, filled: ModelInput, trigger_embeds: Float[Tensor, "n_candidates trigger_pos d_model"]
    ) -> Float[Tensor, "n_candidates pos d_model"]:
        fields = filled.to_dict()
        embeds = self.embedding_matrix[fields["input_ids"]]
        joined: list[Tensor] = []
        end = 0
        for positions, columns in fields["input_trigger_slots"]:
            joined += [embeds[:, end : positions.start], trigger_embeds[:, columns]]
            end = positions.stop
        return torch.cat([*joined, embeds[:, end:]], dim=1)

    def _stack_templates(
        self, compute: Callable[[int, slice], Tensor], n_candidates: int, size_attribute: str
    ) -> Tensor:
        """Compute each template's candidates in batches; (n_templates, n_candidates, ...)."""
        rows = [
            torch.cat(
                map_in_batches(
                    lambda part, i=template_idx: compute(i, part),
                    n_candidates,
                    owner=self,
                    size_attribute=size_attribute,
                )
            )
            for template_idx in range(self._set_token_inputs().n_templates)
        ]
        return torch.stack(rows)


def _hide_ids(filled: ModelInput, embeds: Float[Tensor, "n_candidates pos d_model"]) -> ModelInput:
    return ModelInput(
        input_embeds=embeds,
        input_slices=filled.input_slices,
        input_trigger_slots=filled.input_trigger_slots,
        message_targets=filled.message_targets,
    )


def _finish(
    grads: Tensor, losses: Tensor, normalize: bool, keep_message_dim: bool, return_loss: bool
) -> Tensor | tuple[Tensor, Tensor]:
    if not keep_message_dim:
        grads, losses = grads.mean(dim=0), losses.mean(dim=0)
    if normalize:
        grads = grads / (grads.norm(dim=-1, keepdim=True) + _NORM_FLOOR)
    return (grads, losses) if return_loss else grads
