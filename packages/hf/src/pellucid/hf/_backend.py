"""What all Hugging Face backends share: losses and gradients of triggers given as tokens."""

import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

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
    LossReads,
    LossTokenAccessMixin,
    ModelInput,
    NotDifferentiableError,
    RequirementError,
    Substitutions,
    as_tokenizer,
    boundary,
    map_in_batches,
    replace_nan,
    resolve_and_compute_loss,
)
from pellucid.hf._beginnings import Arrangement, arrange, arrange_as_given
from pellucid.hf._embedding import EmbeddingTable
from pellucid.hf._gradients import (
    embed_weights,
    normalize_last,
    normalize_on_vocabulary,
    project_on_vocabulary,
    softmax_pullback,
    topk_on_vocabulary,
    wide_dtype,
)
from pellucid.hf._pace import Pace
from pellucid.hf._relaxation import check_relaxation, sample_gumbel_softmax
from pellucid.hf._run_mode import held_in_mode

_TokenGrad: TypeAlias = Float[Tensor, "*n_templates n_candidates trigger_pos d_vocab"]
_EmbedGrad: TypeAlias = Float[Tensor, "*n_templates n_candidates trigger_pos d_model"]
_Losses: TypeAlias = Float[Tensor, "*n_templates n_candidates"]

_INVOKE_FIELDS = (
    "input_ids",
    "input_embeds",
    "input_attention_mask",
    "input_prefix_cache_kwargs",
    "input_slices",
    "message_targets",
)


class HuggingFaceBackendModel(
    BaseModel, LossTokenAccessMixin, GradientTokenAccessMixin, GradientEmbedAccessMixin
):
    """The compute methods of a white-box model, on top of one `invoke_from_tokens`.

    A subclass sets `_model`, `_embedding_layer` and `_tokenizer` (and batch sizes, if it likes) in
    its constructor, and gives `set_inputs_from_tokens` and `invoke_from_tokens`. The latter is
    called by keyword with the fields of `ModelInput` that are set, with the loss's `require_*`
    options, with `count_backward`, and with `require_full_logits`; those that its signature does
    not name are left out.
    """

    _embedding_layer: nn.Module
    _tokenizer: Any
    _set_model_to_train: bool = False
    _table: EmbeddingTable | None = None

    @property
    def _hf_model(self) -> Any:
        """The `PreTrainedModel`, where `_model` is something around it."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where the embeddings, and with them all inputs, lie."""
        return self.embedding_layer.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return next(w.dtype for w in self._hf_model.parameters() if w.is_floating_point())

    @property
    def tokenizer(self) -> BaseTokenizer:
        """The tokenizer, adapted; the Hugging Face one is its `wrapped`."""
        return as_tokenizer(self._tokenizer)

    @property
    def embedding_layer(self) -> Any:
        """The module that embeds token ids."""
        return self._embedding_layer

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table, padded ones included."""
        return self._embedding_table.n_rows

    @property
    def effective_embedding_matrix(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding of each token as the model uses it, scaling included."""
        return self._embedding_table.matrix

    @property
    def embedding_matrix(self) -> Float[Tensor, "d_vocab d_model"]:
        """The same as `effective_embedding_matrix`."""
        return self._embedding_table.matrix

    @property
    def n_layers(self) -> int:
        """The number of transformer blocks.

        Raises:
            RequirementError: If the model's config does not say.
        """
        count = getattr(self._hf_model.config.get_text_config(), "num_hidden_layers", None)
        if not isinstance(count, int):
            raise RequirementError(
                f"the config of {type(self._hf_model).__name__} has no num_hidden_layers."
            )
        return count

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
        arranged = self._arrange(self._check_candidates(candidate_trigger_ids), loss_func)
        lend = self._lend_beginnings(arranged)

        def compute(template_idx: int, rows: slice) -> Tensor:
            shared = lend(template_idx, rows)
            losses = self._compute_losses(
                template_idx,
                loss_func,
                shared,
                is_continued=rows.start > 0,
                trigger_ids=arranged.ids[rows],
            )
            return replace_nan(losses.detach()).to(self.device)

        with self._running(with_grad=loss_func.require_gradients):
            losses = self._over_templates(
                compute,
                len(arranged.ids),
                "_forward_pass_batch_size",
                find_pace=functools.partial(self._find_pace, arranged, loss_func),
            )
        losses = losses[:, arranged.sources]
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

    @property
    def _embedding_table(self) -> EmbeddingTable:
        if self._table is None:
            self._table = EmbeddingTable(self._embedding_layer)
        return self._table

    @contextmanager
    def _running(self, *, with_grad: bool) -> Generator[None]:
        with (
            torch.set_grad_enabled(with_grad),
            held_in_mode(self._model, train=self._set_model_to_train),
        ):
            yield

    def _embed(self, ids: Int[Tensor, "n_candidates trigger_pos"]) -> Tensor:
        with torch.no_grad():
            return self._embedding_layer(ids)

    def _differentiate(
        self, loss_func: BaseLoss, embeds: Tensor, ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return gradients (n_templates, n_candidates, trigger_pos, d_model), and the losses."""
        if not loss_func.is_differentiable:
            raise NotDifferentiableError(
                f"{type(loss_func).__name__} has no gradient. Use a differentiable loss, or an "
                "optimizer that needs no gradients."
            )

        def compute(template_idx: int, rows: slice) -> tuple[Tensor, Tensor]:
            leaf = embeds[rows].clone().requires_grad_()
            losses = self._compute_losses(
                template_idx,
                loss_func,
                {},
                trigger_ids=None if ids is None else ids[rows],
                trigger_embeds=leaf,
            )
            if not losses.requires_grad:
                raise NotDifferentiableError(
                    f"{type(loss_func).__name__} does not depend on the trigger's embeddings "
                    "through anything that has a gradient."
                )
            (grad,) = torch.autograd.grad(losses.sum(), leaf)
            return grad.to(wide_dtype(grad.dtype)), replace_nan(losses.detach()).to(self.device)

        with self._running(with_grad=True):
            return self._over_templates(compute, len(embeds), "_backward_pass_batch_size")

    def _over_templates(
        self,
        compute: Callable[[int, slice], Any],
        n_candidates: int,
        size_attribute: str,
        find_pace: Callable[[int], Pace | None] = lambda _: None,
    ) -> Any:
        """Compute each template's candidates in batches; tensors gain a leading template axis."""
        per_template: list[Any] = []
        for template_idx in range(self._set_token_inputs().n_templates):
            one = functools.partial(compute, template_idx)
            pace = find_pace(template_idx)
            parts = map_in_batches(
                one if pace is None else pace.time(one, self._count_tokens),
                n_candidates,
                owner=self,
                size_attribute=size_attribute,
                prefer_size=None if pace is None else pace.prefer_size,
            )
            per_template.append(_concatenate(parts))
        if isinstance(per_template[0], tuple):
            return tuple(torch.stack(parts) for parts in zip(*per_template, strict=True))
        return torch.stack(per_template)

    def _arrange(
        self, ids: Int[Tensor, "n_candidates trigger_pos"], loss_func: BaseLoss
    ) -> Arrangement:
        # Dropout makes of equal candidates different ones.
        if self._set_model_to_train or loss_func.require_gradients:
            return arrange_as_given(ids)
        return arrange(ids)

    def _lend_beginnings(self, arranged: Arrangement) -> Callable[[int, slice], dict[str, Any]]:
        """Return what says how a batch of a template is to be invoked other than by itself."""
        return lambda template_idx, rows: {}

    def _find_pace(
        self, arranged: Arrangement, loss_func: BaseLoss, template_idx: int
    ) -> Pace | None:
        """Return what decides how many candidates to compute at a time, if not memory alone."""
        return None

    def _count_tokens(self) -> int:
        return 0 if self._usage is None else self._usage.total_tokens

    def _compute_losses(
        self,
        template_idx: int,
        loss_func: BaseLoss,
        shared: Mapping[str, Any],
        *,
        is_continued: bool = False,
        **trigger: Tensor | None,
    ) -> Float[Tensor, " n_candidates"]:
        reads = loss_func.reads()
        inputs = self._set_token_inputs()
        model_input = inputs.get_triggered_inputs(
            template_idx,
            **trigger,
            do_append_embeds=loss_func.require_target_prefill,
            decode=_may_read(reads, "input_trigger_strs", "model_input"),
        )
        output = self.invoke_from_tokens(
            **self._select_arguments(
                model_input,
                **shared,
                **loss_func.options(),
                count_backward=trigger.get("trigger_embeds") is not None,
                require_full_logits=_may_read(reads, "full_logits", "model_output"),
                require_generation_logits=_may_read(
                    reads, "generated_response_logits", "model_output"
                ),
            )
        )
        return resolve_and_compute_loss(output, model_input, loss_func, is_continued=is_continued)

    def _select_arguments(self, model_input: ModelInput, **options: Any) -> dict[str, Any]:
        held = model_input.to_dict()
        given = {name: held[name] for name in _INVOKE_FIELDS if name in held}
        if "input_embeds" in given:
            given.pop("input_ids", None)
        accepted = _accepted_names(type(self))
        return {
            name: value
            for name, value in {**given, **options}.items()
            if accepted is None or name in accepted
        }

    def _check_candidates(self, ids: Any) -> Int[Tensor, "n_candidates trigger_pos"]:
        if ids.numel() == 0:
            raise ArgumentError(
                f"candidate_trigger_ids hold no token: shape {tuple(ids.shape)}. "
                "Give at least one candidate of at least one token."
            )
        # On an accelerator, looking at the ids would make the host wait.
        if ids.device.type == "cpu" and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise ArgumentError(
                f"candidate_trigger_ids lie between {int(ids.min())} and {int(ids.max())}, the "
                f"model embeds 0 to {self.vocab_size - 1}."
            )
        return ids.to(self.device)


@functools.cache
def _accepted_names(model_type: type) -> frozenset[str] | None:
    parameters = inspect.signature(getattr(model_type, "invoke_from_tokens")).parameters  # noqa: B009
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return frozenset(parameters)


def _may_read(reads: LossReads, field: str, container: str) -> bool:
    return reads.takes_all or bool({field, container} & reads.fields)


def _mean(values: Tensor, keep_message_dim: bool) -> Tensor:
    return values if keep_message_dim else values.mean(dim=0)


def _concatenate(parts: list[Any]) -> Any:
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return torch.cat(parts)
