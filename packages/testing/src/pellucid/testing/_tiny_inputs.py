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
    SliceKey,
    Targets,
    Template,
    TokenInputManager,
    check_templates,
    split_template,
)


class TinyTokenInputManager(TokenInputManager):
    """Keeps the token ids before and after the trigger, and puts candidates between them.

    Args:
        tokenizer: Encodes what stands around the trigger.
        templates: Texts or conversations, each with the placeholder exactly once.
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
        halves = [split_template(render(template)) for template in checked]
        self._before_texts = [before for before, _ in halves]
        self._after_texts = [after for _, after in halves]
        self._before_ids = [[*prefix_ids, *tokenizer.encode(text)] for text in self._before_texts]
        self._after_ids = [tokenizer.encode(text) for text in self._after_texts]
        self._n_prefix = len(prefix_ids)

    @property
    def has_one_length(self) -> bool:
        """Whether all templates have as many tokens before the trigger, and as many after it."""
        parts = zip(self._before_ids, self._after_ids, strict=True)
        return len({(len(before), len(after)) for before, after in parts}) == 1

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
        before = self._before_ids[chosen_template_idx]
        after = self._after_ids[chosen_template_idx]
        appended = target_ids(targets) if append_target else None
        return ModelInput(
            input_ids=_splice(before, trigger_ids, after, appended),
            input_trigger_ids=trigger_ids,
            input_trigger_strs=self.decode_triggers(trigger_ids),
            input_slices=_slice_up(len(before), trigger_ids.shape[1], len(after), appended),
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
        before, after = self._before_ids[template_idx], self._after_ids[template_idx]
        whole = self._before_texts[template_idx] + text + self._after_texts[template_idx]
        return self.tokenizer.encode(whole) == [*before[self._n_prefix :], *row, *after]

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
    before: list[int],
    trigger_ids: Int[Tensor, "n_candidates trigger_pos"],
    after: list[int],
    appended: Int[Tensor, " target_pos"] | None,
) -> Int[Tensor, "n_candidates pos"]:
    tail = after if appended is None else [*after, *appended.tolist()]
    left = torch.tensor(before, dtype=torch.int64).expand(len(trigger_ids), -1)
    right = torch.tensor(tail, dtype=torch.int64).expand(len(trigger_ids), -1)
    return torch.cat([left, trigger_ids.long(), right], dim=1)


def _slice_up(
    n_before: int, n_trigger: int, n_after: int, appended: Int[Tensor, " target_pos"] | None
) -> dict[str, slice]:
    trigger_end = n_before + n_trigger
    end = trigger_end + n_after
    slices: dict[str, slice] = {
        SliceKey.INPUT_BEFORE: slice(0, n_before),
        SliceKey.TRIGGER: slice(n_before, trigger_end),
        SliceKey.INPUT_AFTER: slice(trigger_end, end),
        SliceKey.INPUT_LAST_TOKEN: slice(end - 1, end),
    }
    if appended is not None:
        slices[SliceKey.APPENDED] = slice(end, end + len(appended))
    return slices
