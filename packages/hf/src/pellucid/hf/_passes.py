"""The passes of a model over triggers: templates one by one, candidates in batches."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
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
    LossReads,
    LossTokenAccessMixin,
    ModelInput,
    NotDifferentiableError,
    RequirementError,
    as_tokenizer,
    map_in_batches,
    replace_nan,
    resolve_and_compute_loss,
)
from pellucid.hf._beginnings import (
    Arrangement,
    Line,
    arrange,
    arrange_as_given,
    line_up_as_arranged,
)
from pellucid.hf._embedding import EmbeddingTable
from pellucid.hf._gradients import wide_dtype
from pellucid.hf._pace import Pace
from pellucid.hf._quantization import check_differentiable
from pellucid.hf._run_mode import held_in_mode
from pellucid.hf._sharding import CandidateShards

_INVOKE_FIELDS = (
    "input_ids",
    "input_embeds",
    "input_attention_mask",
    "input_prefix_cache_kwargs",
    "input_slices",
    "message_targets",
)


class TriggerPasses(
    BaseModel, LossTokenAccessMixin, GradientTokenAccessMixin, GradientEmbedAccessMixin
):
    """A model of transformers, and what its compute methods have in common beneath the surface."""

    _embedding_layer: nn.Module
    _tokenizer: Any
    _set_model_to_train: bool = False
    _table: EmbeddingTable | None = None
    _shards: CandidateShards | None = None

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

    def _evaluate(
        self, ids: Int[Tensor, "n_candidates trigger_pos"], loss_func: BaseLoss
    ) -> Float[Tensor, "n_templates n_candidates"]:
        """Return the loss of each candidate in each template, NaN made +inf."""
        whole = self._arrange(ids, loss_func)
        arranged = whole if self._shards is None else self._shards.split(whole)
        n_templates = self._set_token_inputs().n_templates
        lines = [self._line_up(arranged, i) for i in range(n_templates)]

        def compute(template_idx: int, rows: slice) -> Tensor:
            line = lines[template_idx]
            losses = self._compute_losses(
                template_idx,
                loss_func,
                line.lend(rows),
                is_continued=rows.start > 0,
                trigger_ids=line.ids[rows],
            )
            return replace_nan(losses.detach()).to(self.device)

        usage = dataclasses.replace(self._counters())
        with self._running(with_grad=loss_func.require_gradients):
            losses = self._over_templates(
                compute,
                len(arranged.ids),
                "_forward_pass_batch_size",
                find_pace=functools.partial(self._find_pace, arranged, loss_func),
            )
        pairs = zip(losses, lines, strict=True)
        losses = torch.stack([in_line[line.places] for in_line, line in pairs])
        if self._shards is not None:
            losses = self._shards.gather(losses, len(whole.ids))
            self._usage = self._shards.add_up(usage, self._counters(), self.device)
        return losses[:, whole.sources]

    def _differentiate(
        self, loss_func: BaseLoss, embeds: Tensor, ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return gradients (n_templates, n_candidates, trigger_pos, d_model), and the losses."""
        if not loss_func.is_differentiable:
            raise NotDifferentiableError(
                f"{type(loss_func).__name__} has no gradient. Use a differentiable loss, or an "
                "optimizer that needs no gradients."
            )
        check_differentiable(self._hf_model)

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
            result = self._over_templates(compute, len(embeds), "_backward_pass_batch_size")
        if self._shards is None:
            return result
        grads, losses = map(self._shards.agree, result)
        return grads, losses

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

    def _line_up(self, arranged: Arrangement, template_idx: int) -> Line:
        """Put candidates into the order in which they are to go through a template."""
        del template_idx
        return line_up_as_arranged(arranged)

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
                **_locate_states(self, loss_func, model_input),
                **loss_func.options(),
                require_activations=tuple(sorted(loss_func.activation_names())),
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


def _concatenate(parts: list[Any]) -> Any:
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return torch.cat(parts)


def _locate_states(model: Any, loss_func: BaseLoss, model_input: ModelInput) -> dict[str, Any]:
    """Return where the layers and positions that a loss reads lie, as far as it says so."""
    given = model_input.input_ids if model_input.input_embeds is None else model_input.input_embeds
    accepted = _accepted_names(type(model)) or frozenset[str]()
    located: dict[str, Any] = {}
    for field, selection in loss_func.selections().items():
        name = field.replace("full_", "held_")
        if given is not None and name in accepted:
            located[name] = selection.locate(
                n_layers=model.n_layers,
                n_pos=given.shape[1],
                input_slices=model_input.input_slices or {},
                trigger_slots=model_input.input_trigger_slots,
            )
    return located
