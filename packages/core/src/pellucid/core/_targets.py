"""What a run aims at: the trigger's slot, the parts of an input, the targets of each template."""

import dataclasses
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core._container import container, set_fields
from pellucid.core._errors import ArgumentError, ContainerError

OPTIMIZED_TRIGGER_PLACEHOLDER = "{{OPTIMIZED_TRIGGER}}"
"""Marks the trigger's place; where it occurs several times, the trigger stands several times.

With a number, as `{{OPTIMIZED_TRIGGER_2}}`, it marks the place of a part of the trigger.
"""

DEFAULT_INIT_TRIGGER = " ".join("!" * 20)
"""Twenty exclamation marks: a neutral trigger to start from."""


class SliceKey(StrEnum):
    """Names of the parts of a triggered input; plain strings serve as keys, too.

    Where the trigger stands several times, `TRIGGER` is the first place, `INPUT_BEFORE` what stands
    before it, and `INPUT_AFTER` what follows the last; `input_trigger_slots` of `ModelInput` has
    all places.
    """

    TRIGGER = "trigger"
    INPUT_BEFORE = "input_before"
    INPUT_AFTER = "input_after"
    INPUT_LAST_TOKEN = "input_last_token"
    APPENDED = "appended"


@container
class MessageTargets:
    """What one template's response, vector, direction, gradient or class should be.

    Attributes:
        target_response_strs: The response to bring about.
        target_response_toks: Its token ids, int, of shape (target_pos,).
        target_response_logits: Logits to imitate, of shape (target_pos, d_vocab).
        target_vectors: An embedding to approach, of shape (d_embed,).
        target_directions: A direction in the residual stream, of shape (d_model,).
        target_gradient: A flattened weight gradient, of shape (n_params,).
        target_class_idx: The class to be predicted.
        true_class_idx: The class to be avoided.
        target_hidden_states: Hidden states to reproduce, of shape (pos, d_model).
    """

    target_response_strs: str | None = None
    target_response_toks: Int[Tensor, " target_pos"] | None = None
    target_response_logits: Float[Tensor, "target_pos d_vocab"] | None = None
    target_vectors: Float[Tensor, " d_embed"] | None = None
    target_directions: Float[Tensor, " d_model"] | None = None
    target_gradient: Float[Tensor, " n_params"] | None = None
    target_class_idx: int | None = None
    true_class_idx: int | None = None
    target_hidden_states: Float[Tensor, "pos d_model"] | None = None


@container
class Targets:
    """The targets of all templates: the fields of `MessageTargets`, one entry for each template.

    Raises:
        ContainerError: If a field is unknown, has a wrong type, dtype or rank, or if two fields
            have different numbers of entries.
    """

    target_response_strs: list[str] | None = None
    target_response_toks: Int[Tensor, "n_templates target_pos"] | list[Int[Tensor, " _"]] | None = (
        None
    )
    target_response_logits: list[Float[Tensor, "_ d_vocab"]] | None = None
    target_vectors: Float[Tensor, "n_templates d_embed"] | None = None
    target_directions: Float[Tensor, "n_templates d_model"] | None = None
    target_gradient: Float[Tensor, "n_templates n_params"] | None = None
    target_class_idx: list[int] | None = None
    true_class_idx: list[int] | None = None
    target_hidden_states: Float[Tensor, "n_templates pos d_model"] | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(held) for name, held in set_fields(self).items()}
        if len(set(lengths.values())) > 1:
            raise ContainerError(
                f"Targets holds one entry for each template in every field, got lengths {lengths}."
            )

    @property
    def n_templates(self) -> int:
        """The number of templates these targets are for; 0 when no field is set."""
        return next((len(held) for held in set_fields(self).values()), 0)

    def select_message(self, template_idx: int) -> MessageTargets:
        """Return the targets of one template.

        Args:
            template_idx: Which template, counted from 0.

        Raises:
            ArgumentError: If there is no such template.
        """
        if set_fields(self) and not 0 <= template_idx < self.n_templates:
            raise ArgumentError(
                f"Targets hold {self.n_templates} entries, there is none for template "
                f"{template_idx}. Give one target for each template."
            )
        return MessageTargets(
            **{name: held[template_idx] for name, held in set_fields(self).items()}
        )

    def select_indices(self, indices: Sequence[int]) -> "Targets":
        """Return the targets of some templates, in the order of `indices`."""

        def select(held: Any) -> Any:
            return held[list(indices)] if isinstance(held, Tensor) else [held[i] for i in indices]

        return self._map(select)

    def to_device(self, device: torch.device | str) -> "Targets":
        """Return a copy whose tensors lie on `device`; the original is left as it is."""

        def move(held: Any) -> Any:
            if isinstance(held, list):
                return [move(entry) for entry in held]
            return held.to(device) if isinstance(held, Tensor) else held

        return self._map(move)

    def replace(self, **fields: Any) -> "Targets":
        """Return a copy with some fields replaced."""
        return dataclasses.replace(self, **fields)

    def _map(self, change: Callable[[Any], Any]) -> "Targets":
        return Targets(**{name: change(held) for name, held in set_fields(self).items()})


TextTemplates = Annotated[list[str], "at least one; each holds the placeholder"]
"""Templates as plain strings."""

TokenTrigger = Int[Tensor, " trigger_pos"]
"""The token ids of one trigger."""

TokenTriggerCandidates = Int[Tensor, "n_candidates trigger_pos"]
"""The token ids of several triggers of one length."""

TextTrigger = str
"""A trigger as text."""
