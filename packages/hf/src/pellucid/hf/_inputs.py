"""Inputs managers: templates as token ids or embeddings, open where the trigger goes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from pellucid.core import (
    OPTIMIZED_TRIGGER_PLACEHOLDER,
    ArgumentError,
    MessageTargets,
    ModelInput,
    SliceKey,
    Targets,
    TemplateError,
    TokenInputManager,
    as_tokenizer,
    split_template,
)
from pellucid.hf._prefix import SharedPrefix
from pellucid.hf._slot import Slot
from pellucid.hf._trigger_codec import TriggerCodec


class HuggingFaceTokenInputManager(TokenInputManager):
    """Splices triggers, as ids or as embeddings, into tokenized templates.

    Args:
        tokenizer: A Hugging Face tokenizer or a `BaseTokenizer`.
        device: Where inputs belong; that of the embeddings when omitted.
        templates_ids: Token ids of each template, the placeholder among them, either as one token
            or spelled out.
        embed_func: Makes embeddings of token ids; the model's own when omitted.
        targets: One entry for each template, or None.
        tok_ids: Another name for `templates_ids`.
        model: A model of transformers; needed only where `embed_func` is omitted.
        optimized_trigger_placeholder: The text that marks the trigger's place.

    Raises:
        ArgumentError: Unless exactly one of `templates_ids` and `tok_ids` is given, and one of
            `embed_func` and `model`.
        TemplateError: If a template does not hold the placeholder exactly once, or if templates and
            targets differ in number.
    """

    # What a backend written by hand can rely on; the language model needs neither.
    _always_embeds = True
    _always_masks = True

    def __init__(
        self,
        tokenizer: Any,
        device: torch.device | str | None = None,
        templates_ids: Sequence[Any] | None = None,
        embed_func: Callable[[Tensor], Tensor] | None = None,
        targets: Targets | None = None,
        *,
        tok_ids: Sequence[Any] | None = None,
        model: Any = None,
        optimized_trigger_placeholder: str = OPTIMIZED_TRIGGER_PLACEHOLDER,
    ) -> None:
        given = [ids for ids in (templates_ids, tok_ids) if ids is not None]
        if len(given) != 1:
            raise ArgumentError(
                f"{type(self).__name__} needs the templates' token ids once, as templates_ids or "
                f"as tok_ids, got them {len(given)} times."
            )
        if (embed_func is None) == (model is None) and embed_func is None:
            raise ArgumentError("give embed_func, or the model whose embeddings are to be used.")
        self.tokenizer = as_tokenizer(tokenizer)
        parts = [_split_ids(self.tokenizer, ids, optimized_trigger_placeholder) for ids in given[0]]
        self._hold(parts, embed_func or model.get_input_embeddings(), device, targets)

    def _hold(
        self,
        parts: Sequence[tuple[Sequence[int], Sequence[int]]],
        embed_func: Callable[[Tensor], Tensor],
        device: torch.device | str | None,
        targets: Targets | None,
    ) -> None:
        if not parts:
            raise TemplateError("templates must be a list of at least one template, got none.")
        if targets is not None and targets.n_templates not in (0, len(parts)):
            raise TemplateError(
                f"{len(parts)} templates need {len(parts)} targets, got {targets.n_templates}."
            )
        weight = getattr(embed_func, "weight", None)
        self.device = torch.device(device or getattr(weight, "device", "cpu"))
        self.n_templates = len(parts)
        self.targets = None if targets is None else targets.to_device(self.device)
        self._embed = embed_func
        self._before_ids = [self._as_row(before) for before, _ in parts]
        self._after_ids = [self._as_row(after) for _, after in parts]
        self._embedded: dict[tuple[str, int], Tensor] = {}

    def get_triggered_inputs(  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        self,
        chosen_template_idx: int,
        trigger_ids: Int[Tensor, "n_candidates trigger_pos"] | None = None,
        *,
        trigger_embeds: Float[Tensor, "n_candidates trigger_pos d_model"] | None = None,
        do_append_embeds: bool = False,
        decode: bool = True,
    ) -> ModelInput:
        """Return a template with each trigger spliced in.

        Args:
            chosen_template_idx: Which template, counted from 0.
            trigger_ids: Token ids, int, of shape (n_candidates, trigger_pos).
            trigger_embeds: Embeddings to be used in the trigger's place; gradients flow through
                them, and `trigger_ids` then is for reference only.
            do_append_embeds: Whether the target response's tokens follow the template.
            decode: Whether to set `input_trigger_strs`, which takes time.

        Raises:
            ArgumentError: If there is no trigger, or no target to append.
        """
        trigger = trigger_ids if trigger_embeds is None else trigger_embeds
        if trigger is None:
            raise ArgumentError("give trigger_ids or trigger_embeds, got neither.")
        targets = None if self.targets is None else self.targets.select_message(chosen_template_idx)
        appended = target_row(targets) if do_append_embeds else None
        slices = self._slice_up(chosen_template_idx, trigger.shape[1], appended)
        n_pos = slices[SliceKey.APPENDED if appended is not None else SliceKey.INPUT_AFTER].stop
        mask = torch.ones((1, 1), dtype=torch.int64, device=self.device)
        return ModelInput(
            **self._splice(chosen_template_idx, trigger_ids, trigger_embeds, appended),
            input_trigger_ids=trigger_ids,
            input_trigger_strs=self._decode(trigger_ids) if decode else None,
            input_attention_mask=mask.expand(len(trigger), n_pos) if self._always_masks else None,
            input_slices=slices,
            message_targets=targets,
        )

    def _splice(
        self,
        template_idx: int,
        trigger_ids: Tensor | None,
        trigger_embeds: Tensor | None,
        appended: Tensor | None,
    ) -> dict[str, Any]:
        before, after = self._before_ids[template_idx], self._after_ids[template_idx]
        tail = after if appended is None else torch.cat([after, appended])
        joined = {} if trigger_ids is None else {"input_ids": _join(before, trigger_ids, tail)}
        if trigger_embeds is None and not self._always_embeds:
            return joined
        if trigger_embeds is None and trigger_ids is not None:
            trigger_embeds = self._embed(trigger_ids.to(self.device))
        left = self._embed_once("before", template_idx, before)
        right = self._embed_once("after" if appended is None else "tail", template_idx, tail)
        return {**joined, "input_embeds": _join(left, trigger_embeds, right)}

    def _embed_once(self, part: str, template_idx: int, ids: Tensor) -> Tensor:
        if (part, template_idx) not in self._embedded:
            with torch.no_grad():
                self._embedded[part, template_idx] = self._embed(ids)
        return self._embedded[part, template_idx]

    def _slice_up(
        self, template_idx: int, n_trigger: int, appended: Tensor | None
    ) -> dict[str, slice]:
        n_before, n_after = len(self._before_ids[template_idx]), len(self._after_ids[template_idx])
        stop = n_before + n_trigger
        end = stop + n_after
        slices: dict[str, slice] = {
            SliceKey.INPUT_BEFORE: slice(0, n_before),
            SliceKey.TRIGGER: slice(n_before, stop),
            SliceKey.INPUT_AFTER: slice(stop, end),
            SliceKey.INPUT_LAST_TOKEN: slice(end - 1, end),
        }
        if appended is not None:
            slices[SliceKey.APPENDED] = slice(end, end + len(appended))
        return slices

    def _decode(self, trigger_ids: Tensor | None) -> list[str] | None:
        return None if trigger_ids is None else self.decode_triggers(trigger_ids)

    def _as_row(self, ids: Sequence[int]) -> Int64[Tensor, " _"]:
        return torch.tensor(list(ids), dtype=torch.int64, device=self.device)


class SlottedTokenInputManager(HuggingFaceTokenInputManager):
    """Knows the text around each trigger, so that tokens and text mean the same.

    Args:
        tokenizer: A Hugging Face tokenizer or a `BaseTokenizer`.
        slots: The place of the trigger in each template.
        triggers: Translates triggers in these places.
        embed_func: Makes embeddings of token ids.
        targets: One entry for each template, token ids of the responses included, or None.
        prefix_ids: What the tokenizer puts before every text.
        suffix_ids: What it puts after every text.
        max_positions: How long an input may be; no limit when None.

    Raises:
        TemplateError: If a template is longer than the model's context.
    """

    _always_embeds = False
    _always_masks = False

    def __init__(
        self,
        tokenizer: Any,
        slots: Sequence[Slot],
        triggers: TriggerCodec,
        *,
        embed_func: Callable[[Tensor], Tensor],
        targets: Targets | None = None,
        prefix_ids: Sequence[int] = (),
        suffix_ids: Sequence[int] = (),
        max_positions: int | None = None,
    ) -> None:
        self.tokenizer = as_tokenizer(tokenizer)
        parts = [((*prefix_ids, *s.before_ids), (*s.after_ids, *suffix_ids)) for s in slots]
        self._hold(parts, embed_func, None, targets)
        self._triggers = triggers
        self._max_positions = max_positions
        for i in range(self.n_templates):
            # One token at the least goes in the trigger's place.
            self._check_length(self._slice_up(i, 1, self._appended_to(i)), i)

    @property
    def disagreements(self) -> tuple[str, ...]:
        """Says of each template in which text and tokens cannot agree, why; empty if all do."""
        return self._triggers.disagreements

    def encode_trigger(self, trigger: str) -> Int64[Tensor, " trigger_pos"]:
        """Return a trigger's token ids as they stand in the templates, on the CPU."""
        return torch.tensor(self._triggers.encode(trigger), dtype=torch.int64)

    def decode_triggers(self, trigger_ids: Int[Tensor, "n_candidates trigger_pos"]) -> list[str]:
        """Return the texts that, filled into the templates, stand for these token ids."""
        return self._triggers.decode(trigger_ids.tolist())

    def retokenization_mask(
        self, trigger_ids: Int[Tensor, "n_candidates trigger_pos"]
    ) -> Bool[Tensor, " n_candidates"]:
        """Say which triggers mean the same as text, as strictly as the model's `consistency`.

        With "full", the text of every template, the decoded trigger filled in, has exactly the
        tokens that `get_triggered_inputs` gives the model.
        """
        return torch.tensor(self._triggers.accepts(trigger_ids.tolist()), dtype=torch.bool)

    def tokenization_gap(self, trigger_ids: Int[Tensor, " trigger_pos"]) -> int:
        """Return how many tokens of the whole input differ once a trigger is text.

        Counted in the template where most do, whatever the model's `consistency`.
        """
        return self._triggers.count_gap(trigger_ids.tolist())

    def _slice_up(
        self, template_idx: int, n_trigger: int, appended: Tensor | None
    ) -> dict[str, slice]:
        slices = super()._slice_up(template_idx, n_trigger, appended)
        self._check_length(slices, template_idx)
        return slices

    def _appended_to(self, template_idx: int) -> Tensor | None:
        targets = None if self.targets is None else self.targets.select_message(template_idx)
        return None if targets is None else targets.target_response_toks

    def _check_length(self, slices: dict[str, slice], template_idx: int) -> None:
        n_pos = max(part.stop for part in slices.values())
        if self._max_positions is not None and n_pos > self._max_positions:
            raise TemplateError(
                f"template {template_idx} with its trigger and target takes {n_pos} positions, the "
                f"model has {self._max_positions}. Shorten the template, the trigger or the target."
            )


class LMHFTokenInputManager(SlottedTokenInputManager):
    """The inputs of a language model; the target response may follow the template.

    Where prefixes are shared, inputs are whole nevertheless, and `input_prefix_cache_kwargs` holds
    the `prefix` that they begin with.
    """

    prefixes: tuple[SharedPrefix, ...] = ()

    def share_prefixes(self, make: Callable[[Tensor], SharedPrefix]) -> None:
        """Let what stands before the trigger be computed once for each template."""
        self.prefixes = tuple(make(ids) for ids in self._before_ids)

    def _splice(
        self,
        template_idx: int,
        trigger_ids: Tensor | None,
        trigger_embeds: Tensor | None,
        appended: Tensor | None,
    ) -> dict[str, Any]:
        spliced = super()._splice(template_idx, trigger_ids, trigger_embeds, appended)
        if not self.prefixes:
            return spliced
        return {**spliced, "input_prefix_cache_kwargs": {"prefix": self.prefixes[template_idx]}}


class EncoderHFTokenInputManager(SlottedTokenInputManager):
    """The inputs of an encoder or a classifier."""


def target_row(targets: MessageTargets | None) -> Int64[Tensor, " target_pos"]:
    """Return the target response's token ids; positions marked as not counted hold token 0.

    Raises:
        ArgumentError: (a ValueError) If there is no target response.
    """
    if targets is None or targets.target_response_toks is None:
        raise ArgumentError(
            "the target response is to be appended, but there is none. "
            "Give Targets(target_response_strs=[...])."
        )
    return targets.target_response_toks.long().clamp(min=0)


def _join(left: Tensor, middle: Any, right: Tensor) -> Tensor:
    n = len(middle)
    return torch.cat(
        [
            left.expand(n, *left.shape),
            middle.to(device=left.device, dtype=left.dtype),
            right.expand(n, *right.shape),
        ],
        dim=1,
    )


def _split_ids(tokenizer: Any, ids: Any, placeholder: str) -> tuple[list[int], list[int]]:
    row = [int(i) for i in ids]
    marker = tokenizer.encode(placeholder)
    if len(marker) == 1 and marker[0] in row:
        if row.count(marker[0]) != 1:
            raise TemplateError(f"a template holds {placeholder} {row.count(marker[0])} times.")
        cut = row.index(marker[0])
        return row[:cut], row[cut + 1 :]
    text = tokenizer.decode(row).replace(placeholder, OPTIMIZED_TRIGGER_PLACEHOLDER)
    before, after = split_template(text)
    return tokenizer.encode(before), tokenizer.encode(after)
