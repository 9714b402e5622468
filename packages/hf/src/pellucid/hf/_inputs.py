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
    Targets,
    TemplateError,
    TokenInputManager,
    TriggerSlot,
    as_tokenizer,
    cut_template,
    place_slots,
    slice_input,
)
from pellucid.hf._prefix import SharedPrefix
from pellucid.hf._slot import LocatedTemplate
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
        TemplateError: If a template does not hold the placeholder, or if templates and targets
            differ in number.
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
        layouts = [_cut_ids(self.tokenizer, ids, optimized_trigger_placeholder) for ids in given[0]]
        self.n_parts = max((n for _, _, n in layouts), default=0)
        pairs = [(fixed, parts) for fixed, parts, _ in layouts]
        self._hold(pairs, embed_func or model.get_input_embeddings(), device, targets)

    def _hold(
        self,
        layouts: Sequence[tuple[Sequence[Sequence[int]], Sequence[int]]],
        embed_func: Callable[[Tensor], Tensor],
        device: torch.device | str | None,
        targets: Targets | None,
    ) -> None:
        if not layouts:
            raise TemplateError("templates must be a list of at least one template, got none.")
        if targets is not None and targets.n_templates not in (0, len(layouts)):
            raise TemplateError(
                f"{len(layouts)} templates need {len(layouts)} targets, got {targets.n_templates}."
            )
        weight = getattr(embed_func, "weight", None)
        self.device = torch.device(device or getattr(weight, "device", "cpu"))
        self.n_templates = len(layouts)
        self.targets = None if targets is None else targets.to_device(self.device)
        self._embed = embed_func
        # What stands before the first place of the trigger, between places, and after the last.
        self._fixed_ids = [[self._as_row(ids) for ids in fixed] for fixed, _ in layouts]
        self._slot_parts = [tuple(parts) for _, parts in layouts]
        self._embedded: dict[tuple[int, int, bool], Tensor] = {}

    @property
    def _before_ids(self) -> list[Int64[Tensor, " _"]]:
        return [fixed[0] for fixed in self._fixed_ids]

    @property
    def _after_ids(self) -> list[Int64[Tensor, " _"]]:
        return [fixed[-1] for fixed in self._fixed_ids]

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
        slots = self._place(chosen_template_idx, trigger.shape[1])
        n_after = len(self._fixed_ids[chosen_template_idx][-1])
        n_appended = 0 if appended is None else len(appended)
        n_pos = slots[-1].positions.stop + n_after + n_appended
        self._check_length(n_pos, chosen_template_idx)
        mask = torch.ones((1, 1), dtype=torch.int64, device=self.device)
        return ModelInput(
            **self._splice(chosen_template_idx, slots, trigger_ids, trigger_embeds, appended),
            input_trigger_ids=trigger_ids,
            input_trigger_strs=self._decode(trigger_ids) if decode else None,
            input_attention_mask=mask.expand(len(trigger), n_pos) if self._always_masks else None,
            input_slices=slice_input(slots, n_after, n_appended),
            input_trigger_slots=slots,
            message_targets=targets,
        )

    def _splice(
        self,
        template_idx: int,
        slots: Sequence[TriggerSlot],
        trigger_ids: Tensor | None,
        trigger_embeds: Tensor | None,
        appended: Tensor | None,
    ) -> dict[str, Any]:
        fixed = list(self._fixed_ids[template_idx])
        if appended is not None:
            fixed[-1] = torch.cat([fixed[-1], appended])
        joined = {} if trigger_ids is None else {"input_ids": _join(fixed, slots, trigger_ids)}
        if trigger_embeds is None and not self._always_embeds:
            return joined
        if trigger_embeds is None and trigger_ids is not None:
            trigger_embeds = self._embed(trigger_ids.to(self.device))
        around = [
            self._embed_once(template_idx, i, ids, has_target=appended is not None)
            for i, ids in enumerate(fixed)
        ]
        return {**joined, "input_embeds": _join(around, slots, trigger_embeds)}

    def _embed_once(self, template_idx: int, i: int, ids: Tensor, *, has_target: bool) -> Tensor:
        key = (template_idx, i, has_target)
        if key not in self._embedded:
            with torch.no_grad():
                self._embedded[key] = self._embed(ids)
        return self._embedded[key]

    def _place(self, template_idx: int, n_trigger: int) -> list[TriggerSlot]:
        columns = self.columns(n_trigger)
        n_fixed = [len(ids) for ids in self._fixed_ids[template_idx]]
        return place_slots(n_fixed, [columns[part] for part in self._slot_parts[template_idx]])

    def _check_length(self, n_pos: int, template_idx: int) -> None:
        """Refuse inputs that are too long; here nothing is known of a limit."""

    def _decode(self, trigger_ids: Tensor | None) -> list[str] | None:
        return None if trigger_ids is None else self.decode_triggers(trigger_ids)

    def _as_row(self, ids: Sequence[int]) -> Int64[Tensor, " _"]:
        return torch.tensor(list(ids), dtype=torch.int64, device=self.device)


class SlottedTokenInputManager(HuggingFaceTokenInputManager):
    """Knows the text around each trigger, so that tokens and text mean the same.

    Args:
        tokenizer: A Hugging Face tokenizer or a `BaseTokenizer`.
        templates: The templates, and the places of the trigger in each.
        triggers: Translates triggers in these places.
        embed_func: Makes embeddings of token ids.
        n_parts: The highest number that a placeholder bears; 0 if none bears one.
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
        templates: Sequence[LocatedTemplate],
        triggers: TriggerCodec,
        *,
        embed_func: Callable[[Tensor], Tensor],
        n_parts: int = 0,
        targets: Targets | None = None,
        prefix_ids: Sequence[int] = (),
        suffix_ids: Sequence[int] = (),
        max_positions: int | None = None,
    ) -> None:
        self.tokenizer = as_tokenizer(tokenizer)
        self.n_parts = n_parts
        layouts = [
            (_wrap(t.fixed_ids, prefix_ids, suffix_ids), [slot.part for slot in t.slots])
            for t in templates
        ]
        self._hold(layouts, embed_func, None, targets)
        self._triggers = triggers
        self._max_positions = max_positions
        # One token at the least goes in each place.
        self._check_lengths([1] * max(n_parts, 1))

    @property
    def disagreements(self) -> tuple[str, ...]:
        """Says of each template in which text and tokens cannot agree, why; empty if all do."""
        return self._triggers.disagreements

    def check_trigger_length(self, n_tokens: int) -> None:
        """Refuse triggers that are too long for the model in these templates.

        Raises:
            TemplateError: If they are.
        """
        self._check_lengths([part.stop - part.start for part in self.columns(n_tokens)])

    def retokenization_mask(
        self, trigger_ids: Int[Tensor, "n_candidates trigger_pos"]
    ) -> Bool[Tensor, " n_candidates"]:
        """Say which triggers mean the same as text, as strictly as the model's `consistency`.

        With "full", the text of every template, the decoded trigger filled in, has exactly the
        tokens that `get_triggered_inputs` gives the model.
        """
        columns = self.columns(trigger_ids.shape[1])
        texts = self._decode_columns(trigger_ids, columns)
        accepted = self._triggers.accepts(trigger_ids.tolist(), texts, columns)
        return torch.tensor(accepted, dtype=torch.bool)

    def tokenization_gap(self, trigger_ids: Int[Tensor, " trigger_pos"]) -> int:
        """Return how many tokens of the whole input differ once a trigger is text.

        Counted in the template where most do, whatever the model's `consistency`.
        """
        columns = self.columns(len(trigger_ids))
        (texts,) = self._decode_columns(trigger_ids[None], columns)
        return self._triggers.count_gap(trigger_ids.tolist(), texts, columns)

    def _encode_texts(self, parts: Sequence[str]) -> list[Int64[Tensor, " _"]]:
        return [torch.tensor(ids, dtype=torch.int64) for ids in self._triggers.encode(parts)]

    def _decode_part(self, part: int, ids: Int[Tensor, "n_candidates _"]) -> list[str]:
        return self._triggers.decode(part, ids.tolist())

    def _decode_columns(
        self, trigger_ids: Int[Tensor, "n_candidates trigger_pos"], columns: Sequence[slice]
    ) -> list[tuple[str, ...]]:
        parts = (self._decode_part(i, trigger_ids[:, part]) for i, part in enumerate(columns))
        return list(zip(*parts, strict=True))

    def _check_lengths(self, part_lengths: Sequence[int]) -> None:
        for i in range(self.n_templates):
            appended = self._appended_to(i)
            n_pos = sum(map(len, self._fixed_ids[i])) + (0 if appended is None else len(appended))
            n_pos += sum(part_lengths[part] for part in self._slot_parts[i])
            self._check_length(n_pos, i)

    def _appended_to(self, template_idx: int) -> Tensor | None:
        targets = None if self.targets is None else self.targets.select_message(template_idx)
        return None if targets is None else targets.target_response_toks

    def _check_length(self, n_pos: int, template_idx: int) -> None:
        if self._max_positions is not None and n_pos > self._max_positions:
            raise TemplateError(
                f"template {template_idx} with its trigger and target takes {n_pos} positions, the "
                f"model has {self._max_positions}. Shorten the template, the trigger or the target."
            )


class LMHFTokenInputManager(SlottedTokenInputManager):
    """The inputs of a language model; the target response may follow the template.

    What stands before the first place of the trigger is the prefix. Where prefixes are shared,
    inputs are whole nevertheless, and `input_prefix_cache_kwargs` holds the `prefix` that they
    begin with.
    """

    prefixes: tuple[SharedPrefix, ...] = ()

    def share_prefixes(self, make: Callable[[Tensor], SharedPrefix]) -> None:
        """Let what stands before the trigger's first place be computed once for each template."""
        self.prefixes = tuple(make(ids) for ids in self._before_ids)

    def _splice(
        self,
        template_idx: int,
        slots: Sequence[TriggerSlot],
        trigger_ids: Tensor | None,
        trigger_embeds: Tensor | None,
        appended: Tensor | None,
    ) -> dict[str, Any]:
        spliced = super()._splice(template_idx, slots, trigger_ids, trigger_embeds, appended)
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


def _join(fixed: Sequence[Tensor], slots: Sequence[TriggerSlot], trigger: Any) -> Tensor:
    """Put a trigger, as ids or embeddings, into its places."""
    n = len(trigger)
    placed = trigger.to(device=fixed[0].device, dtype=fixed[0].dtype)
    joined = [fixed[0].expand(n, *fixed[0].shape)]
    for slot, after in zip(slots, fixed[1:], strict=True):
        joined += [placed[:, slot.columns], after.expand(n, *after.shape)]
    return torch.cat(joined, dim=1)


def _wrap(
    fixed_ids: Sequence[Sequence[int]], prefix_ids: Sequence[int], suffix_ids: Sequence[int]
) -> list[list[int]]:
    rows = [list(ids) for ids in fixed_ids]
    rows[0] = [*prefix_ids, *rows[0]]
    rows[-1] = [*rows[-1], *suffix_ids]
    return rows


def _cut_ids(
    tokenizer: Any, ids: Any, placeholder: str
) -> tuple[list[list[int]], tuple[int, ...], int]:
    """Return a template's own tokens, the part in each place, and the highest number of one."""
    row = [int(i) for i in ids]
    marker = tokenizer.encode(placeholder)
    if len(marker) == 1 and marker[0] in row:
        places = [i for i, held in enumerate(row) if held == marker[0]]
        starts, ends = [0, *(place + 1 for place in places)], [*places, len(row)]
        fixed = [row[start:end] for start, end in zip(starts, ends, strict=True)]
        return fixed, (0,) * len(places), 0
    text = tokenizer.decode(row).replace(placeholder, OPTIMIZED_TRIGGER_PLACEHOLDER)
    pieces = cut_template(text)
    n_parts = max(pieces.parts) + 1 if pieces.is_numbered else 0
    return [tokenizer.encode(part) for part in pieces.texts], pieces.parts, n_parts
