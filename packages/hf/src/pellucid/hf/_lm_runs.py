"""What a causal language model does with a batch that fits: predict, answer, count."""

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core import (
    ActivationReader,
    ActivationsRead,
    ArgumentError,
    BaseLoss,
    MessageTargets,
    ModelOutput,
    RequirementError,
    Targets,
)
from pellucid.hf._beginnings import Arrangement, Beginning, CommonRow, Line, line_up
from pellucid.hf._forward import Forward, Wanted, rows_needed
from pellucid.hf._generation import Decoding, first_token_logprobs, generate
from pellucid.hf._gradients import wide_dtype
from pellucid.hf._inputs import target_row
from pellucid.hf._pace import Pace, Paces
from pellucid.hf._prefix import SharedPart, SharedPrefix, complete
from pellucid.hf._prompts import encode_targets
from pellucid.hf._slotted import SlottedBackend
from pellucid.hf._taps import Asked


class LanguageModelRuns(SlottedBackend):
    """The passes of a language model, beneath the public methods of `LMHFModel`."""

    _forward: Forward
    _paces: Paces | None
    _has_attentions: bool
    _reader: ActivationReader | None = None

    @property
    def _end_ids(self) -> list[int]:
        ids = self._model.generation_config.eos_token_id
        ids = self._tokenizer.eos_token_id if ids is None else ids
        return [ids] if isinstance(ids, int) else list(ids or ())

    def _predict(
        self, rows: Sequence[Sequence[int]], target: Sequence[int], *, first: bool
    ) -> dict[str, Any]:
        """Predict a response's tokens, or its first, from prompts of different lengths."""
        batch = self._pad([[*row, *target] for row in rows], limit=True)
        n_pos = batch.input_ids.shape[1]
        wanted = rows_needed(
            n_pos, n_pos - len(target), all_rows=False, prefill=bool(target), first=first
        )
        result = self._run(batch.input_ids, batch.mask, rows=wanted, n_tokens=batch.n_tokens)
        return self._read_predictions(result.logits, n_target=len(target), first=first)

    def _read_predictions(
        self, logits: Float[Tensor, "batch _ d_vocab"], *, n_target: int, first: bool
    ) -> dict[str, Any]:
        """Name logits, the first of which follow the prompt, as losses know them."""
        fields: dict[str, Any] = {}
        if n_target:
            prefill = logits[:, :n_target]
            fields["prefill_response_logits"] = prefill.to(wide_dtype(prefill.dtype))
        if first:
            fields["response_first_token_logprobs"] = first_token_logprobs(
                logits[:, 0].detach(), self._codec
            )
        return fields

    def _invoke(
        self,
        given: Tensor,
        mask: Tensor | None,
        n_prompt: int,
        *,
        wanted: Wanted,
        count_backward: bool,
        decoding: Decoding,
        prefix: Beginning | SharedPrefix | None = None,
    ) -> ModelOutput:
        """Run one batch whose first `n_prompt` positions are the prompt, and answer it."""
        n_pos = given.shape[1]
        rows = rows_needed(
            n_pos,
            n_prompt,
            all_rows=wanted.full_logits,
            prefill=wanted.prefill,
            first=wanted.first_token,
        )
        result = self._run(
            given,
            mask,
            rows=rows,
            prefix=prefix,
            count_backward=count_backward,
            activations=wanted.activations,
            stop=wanted.is_activations_only,
            **wanted.outputs(),
        )
        answers = self._answer(
            given[:, :n_prompt], None if mask is None else mask[:, :n_prompt], decoding
        )
        predicted = self._read_predictions(
            result.logits[:, n_prompt - 1 - rows.start :],
            n_target=n_pos - n_prompt if wanted.prefill else 0,
            first=wanted.first_token,
        )
        return ModelOutput(
            full_logits=result.logits if wanted.full_logits else None,
            activations=result.activations if wanted.activations else None,
            **wanted.name_insides(result),
            **predicted,
            **answers,
        )

    def _run(
        self,
        given: Tensor,
        mask: Tensor | None,
        *,
        rows: slice,
        prefix: Beginning | SharedPrefix | None = None,
        n_tokens: int | None = None,
        count_backward: bool = False,
        activations: Sequence[str] = (),
        stop: bool = False,
        **outputs: Any,
    ) -> Any:
        """Make the raw call, after a prefix that all inputs share if there is one, and count it."""
        # Hooks may read or change positions of the prefix.
        is_whole = mask is not None or (self._reader is not None and self._reader.has_hooks)
        is_whole = is_whole or bool(activations)
        with self._hooked(activations, stop) as read:
            part = None if is_whole else _share(prefix, len(given), rows, outputs)
            if part is not None:
                # What follows the last row that is read reaches none of them.
                end = None if any(outputs.values()) else max(rows.stop, part.n_tokens + 1)
                given = given[:, part.n_tokens : end]
                result = self._run_after(given, part, rows=rows, **outputs)
            else:
                try:
                    result = self._forward(given, mask, rows=rows, **outputs)
                except ActivationsRead:
                    empty = torch.empty((len(given), 0, 0), device=given.device)
                    result = SimpleNamespace(logits=empty)
            result.activations = _check_read(read, activations)
        if n_tokens is None:
            n_tokens = given.shape[0] * given.shape[1] if mask is None else int(mask.sum())
        self._update_invoke_stats(
            n_tokens=n_tokens, n_samples=len(given), count_backward=count_backward
        )
        return result

    def _hooked(
        self, activations: Sequence[str], stop: bool
    ) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Return the context of a pass in which hooks act, and activations are read by name."""
        if self._reader is not None:
            return self._reader.reading(activations, stop=stop)
        if activations:
            raise RequirementError(
                f"the activations {list(activations)!r} are read by name, which takes a bridge. "
                "Make the model of one: LMHFModel(TransformerBridge(...))."
            )
        return contextlib.nullcontext({})

    def _make_prefix(self, ids: Int64[Tensor, " pos"]) -> SharedPrefix:
        return SharedPrefix(ids, self._model, self._forward, count_tokens=self._count_shared)

    def _count_shared(self, n_tokens: int) -> None:
        # A pass, but of no candidate.
        self._update_invoke_stats(n_tokens=n_tokens, n_samples=0)

    def _line_up(self, arranged: Arrangement, template_idx: int) -> Line:
        inputs: Any = self._set_token_inputs()
        if not inputs.prefixes:
            return super()._line_up(arranged, template_idx)
        filled = inputs.get_triggered_inputs(template_idx, arranged.base[None], decode=False)

        def make_common_row(n_tokens: int) -> CommonRow:
            return CommonRow(
                inputs.prefixes[template_idx],
                filled.input_ids[0, :n_tokens],
                self._forward,
                count_tokens=self._count_shared,
            )

        return line_up(arranged, filled.input_trigger_slots, make_common_row)

    def _find_pace(
        self, arranged: Arrangement, loss_func: BaseLoss, template_idx: int
    ) -> Pace | None:
        if self._paces is None:
            return None
        filled = self._set_token_inputs().get_triggered_inputs(
            template_idx, arranged.ids[:1], decode=False
        )
        n_pos = 0 if filled.input_ids is None else filled.input_ids.shape[1]
        kind = (template_idx, n_pos, type(loss_func), repr(loss_func.options()))
        return self._paces.find(kind, len(arranged.ids))

    def _run_after(self, rest: Tensor, part: SharedPart, *, rows: slice, **outputs: Any) -> Any:
        first = max(rows.start - part.n_tokens, 0)
        result = self._forward(
            rest,
            None,
            # One row at the least, even if all that is wanted lies in the prefix.
            rows=slice(first, max(rows.stop - part.n_tokens, first + 1)),
            past=part.cache,
            n_past=part.n_tokens,
            **outputs,
        )
        return complete(result, _keep_asked(part, outputs.get("output_hidden_states")), rows)

    def _answer(
        self,
        prompt: Tensor,
        mask: Tensor | None,
        decoding: Decoding,
    ) -> dict[str, Any]:
        """Generate responses and name them as losses know them; nothing if none are wanted."""
        if not decoding.wanted:
            return {}
        shown = torch.ones(prompt.shape[:2], dtype=torch.int64, device=prompt.device)
        mask = shown if mask is None else mask
        with torch.no_grad(), self._hooked((), stop=False):
            made = generate(
                self._model,
                {"input_ids" if prompt.ndim == 2 else "inputs_embeds": prompt.detach()},
                mask,
                decoding,
                pad_id=self._pad_id,
                end_ids=self._end_ids,
            )
        n_tokens = int(mask.sum()) + sum(len(ids) for ids in made.response_ids)
        self._update_invoke_stats(n_tokens=n_tokens, n_samples=len(prompt))
        ids = [row.tolist() for row in made.response_ids]
        return {
            "generated_response_ids": made.response_ids,
            "generated_response_strs": self._codec.decode(ids, skip_special=True),
            **({} if made.logits is None else {"generated_response_logits": made.logits}),
        }

    def _target_row(self, targets: MessageTargets | None) -> Int64[Tensor, " target_pos"]:
        """Return the target response's token ids, those of its text if there are no others."""
        text = None if targets is None else targets.target_response_strs
        if targets is not None and targets.target_response_toks is None and text is not None:
            whole = encode_targets(self._codec, Targets(target_response_strs=[text]), 0)
            targets = None if whole is None else whole.select_message(0)
        return target_row(targets)

    def _append(
        self, given: Tensor, mask: Tensor | None, target: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        target = target.to(given.device)
        tail = target if given.ndim == 2 else self._embed(target[None])[0]
        given = torch.cat([given, tail.to(given.dtype).expand(len(given), *tail.shape)], dim=1)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), len(target))], dim=1)
        return given, mask

    def _check_attentions(self, wanted: bool) -> None:
        if wanted and not self._has_attentions:
            raise ArgumentError(
                "attention patterns are computed by eager attention alone. "
                "Make the model with use_eager_attention=True."
            )


def prefix_of(kwargs: Mapping[str, Any] | None) -> Beginning | SharedPrefix | None:
    """Return what an inputs manager gives as the prefix of its inputs, if it does.

    Raises:
        ArgumentError: (a ValueError) If it is anything else, such as a cache of one's own.
    """
    if not kwargs:
        return None
    if set(kwargs) != {"prefix"} or not isinstance(kwargs["prefix"], (Beginning, SharedPrefix)):
        raise ArgumentError(
            f"input_prefix_cache_kwargs holds {sorted(kwargs)!r}, expected the prefix that "
            "get_triggered_inputs gives. Pass that, or leave it out."
        )
    return kwargs["prefix"]


def _share(
    prefix: Beginning | SharedPrefix | None,
    batch: int,
    rows: slice,
    outputs: Mapping[str, Any],
) -> SharedPart | None:
    if prefix is None:
        return None
    states = outputs.get("output_hidden_states", False)
    if isinstance(states, Asked):
        states = states.held.positions.start < prefix.n_tokens
    return prefix.share(
        batch,
        first_row=rows.start,
        hidden_states=states,
        attentions=bool(outputs.get("output_attentions", False)),
    )


def _check_read(read: Mapping[str, Tensor], asked: Sequence[str]) -> dict[str, Tensor]:
    missing = [name for name in asked if name not in read]
    if missing:
        raise RequirementError(
            f"the pass did not come by {missing!r}. Gradients begin at the embeddings, so "
            "what lies before them is not computed: choose an activation behind them."
        )
    return dict(read)


def _keep_asked(part: SharedPart, asked: Asked | bool | None) -> SharedPart:
    """Keep of a prefix's hidden states what is asked for."""
    if part.hidden_states is None or not isinstance(asked, Asked):
        return part
    return part._replace(hidden_states=asked.pick(part.hidden_states[1:]))


def single_input(input_ids: Tensor | None, input_embeds: Tensor | None) -> Tensor:
    given = [held for held in (input_ids, input_embeds) if held is not None]
    if len(given) != 1:
        raise ArgumentError(
            f"give exactly one of input_ids and input_embeds, got {len(given)} of them."
        )
    return given[0]
