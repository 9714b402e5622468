"""Splices triggers into tokenized templates, for the tiny models."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pellucid.core import (
    ArgumentError,
    BaseTokenizer,
    MessageTargets,
    ModelInput,
    Targets,
    Template,
    TokenInputManager,
    TriggerSlot,
    check_templates,
    cut_template,
    highest_part,
    place_slots,
    slice_input,
    split_parts,
)


class TinyTokenInputManager(TokenInputManager):
    """Keeps the token ids around each place of the trigger, and puts candidates between them.

    Args:
        tokenizer: Encodes what stands around the trigger.
        templates: Texts or conversations with the placeholder.
        targets: One entry for each template, or None.
        render: Makes one text of a template.
        prefix_ids: Token ids that the model puts before every input.

    Raises:
        TemplateError: If a template or the number of targets is not as it must be.
    """

    def __init__(
        self,
        tokenizer: BaseTokenizer,
        templates: Sequence[Template],
        targets: Targets | None = None,
        *,
        render: Callable[[Template], str],
        prefix_ids: Sequence[int] = (),
    ) -> None:
        checked = check_templates(templates, targets)
        self.tokenizer = tokenizer
        self.targets = targets
        self.n_templates = len(checked)
        self.n_parts = highest_part(checked)
        self._pieces = [cut_template(render(template)) for template in checked]
        self._fixed_ids = [[tokenizer.encode(text) for text in p.texts] for p in self._pieces]
        self._prefix_ids = list(prefix_ids)
        for fixed in self._fixed_ids:
            fixed[0] = [*prefix_ids, *fixed[0]]

    @property
    def has_one_length(self) -> bool:
        """Whether the trigger stands in all templates at the same positions, with as many after."""
        shapes = zip(self._fixed_ids, self._pieces, strict=True)
        return len({(tuple(map(len, fixed)), pieces.parts) for fixed, pieces in shapes}) == 1

    def get_triggered_inputs(
        self,
        chosen_template_idx: int,
        trigger_ids: Int[Tensor, "n_candidates trigger_pos"],
        append_target: bool = False,
        **kwargs: Any,
    ) -> ModelInput:
        """Return a template with each trigger spliced in.

        Args:
            chosen_template_idx: Which template, counted from 0.
            trigger_ids: Token ids, int, of shape (n_candidates, trigger_pos).
            append_target: Whether the target response's tokens follow the template.
            **kwargs: None is known; any is an error.

        Raises:
            ArgumentError: If there are further arguments, or there is no target to append.
        """
        if kwargs:
            raise ArgumentError(f"unknown arguments {sorted(kwargs)!r}; known: append_target.")
        targets = self._select_targets(chosen_template_idx)
        fixed = self._fixed_ids[chosen_template_idx]
        slots = self._place(chosen_template_idx, trigger_ids.shape[1])
        appended = target_ids(targets).tolist() if append_target else []
        return ModelInput(
            input_ids=_splice(fixed, slots, trigger_ids, appended),
            input_trigger_ids=trigger_ids,
            input_trigger_strs=self.decode_triggers(trigger_ids),
            input_slices=slice_input(slots, len(fixed[-1]), len(appended)),
            input_trigger_slots=slots,
            message_targets=targets,
        )

    def retokenization_mask(
        self, trigger_ids: Int[Tensor, "n_candidates trigger_pos"]
    ) -> Bool[Tensor, " n_candidates"]:
        """Say for which triggers every whole template, given as text, has these very tokens."""
        rows = trigger_ids.tolist()
        texts = self.decode_triggers(trigger_ids)
        survives = [
            all(self._means_the_same(i, row, text) for i in range(self.n_templates))
            for row, text in zip(rows, texts, strict=True)
        ]
        return torch.tensor(survives, dtype=torch.bool)

    def _means_the_same(self, template_idx: int, row: list[int], text: str) -> bool:
        pieces, fixed = self._pieces[template_idx], self._fixed_ids[template_idx]
        whole = pieces.fill(split_parts(text) if self.n_parts else [text])
        slots = self._place(template_idx, len(row))
        ids = _splice(fixed, slots, torch.tensor([row]), [])[0].tolist()
        return [*self._prefix_ids, *self.tokenizer.encode(whole)] == ids

    def _place(self, template_idx: int, n_trigger: int) -> list[TriggerSlot]:
        columns = self.columns(n_trigger)
        n_fixed = [len(ids) for ids in self._fixed_ids[template_idx]]
        return place_slots(n_fixed, [columns[part] for part in self._pieces[template_idx].parts])

    def _select_targets(self, template_idx: int) -> MessageTargets | None:
        return None if self.targets is None else self.targets.select_message(template_idx)


def tokenize_targets(tokenizer: BaseTokenizer, targets: Targets | None) -> Targets | None:
    """Return targets with the token ids of the target responses; ids that are given are kept."""
    if targets is None or targets.target_response_strs is None:
        return targets
    if targets.target_response_toks is not None:
        return targets
    texts = targets.target_response_strs
    return targets.replace(target_response_toks=[tokenizer.encode_trigger(t) for t in texts])


def target_ids(targets: MessageTargets | None) -> Int[Tensor, " target_pos"]:
    """Return the target response's token ids.

    Raises:
        ArgumentError: If there are none.
    """
    if targets is None or targets.target_response_toks is None:
        raise ArgumentError(
            "a target response is to be appended, but there is none. "
            "Give Targets(target_response_strs=[...])."
        )
    return targets.target_response_toks


def _splice(
    fixed: Sequence[Sequence[int]],
    slots: Sequence[TriggerSlot],
    trigger_ids: Int[Tensor, "n_candidates trigger_pos"],
    appended: Sequence[int],
) -> Int[Tensor, "n_candidates pos"]:
    around = [
        torch.tensor(ids, dtype=torch.int64) for ids in (*fixed[:-1], [*fixed[-1], *appended])
    ]
    joined: list[Tensor] = [around[0].expand(len(trigger_ids), -1)]
    for slot, ids in zip(slots, around[1:], strict=True):
        joined += [trigger_ids[:, slot.columns].long(), ids.expand(len(trigger_ids), -1)]
    return torch.cat(joined, dim=1)
