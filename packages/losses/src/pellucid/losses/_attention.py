"""Losses over attention patterns."""

import dataclasses
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from pellucid.core import BaseLoss, HeldStates, SliceKey, StateSelection, TriggerSlot, boundary
from pellucid.losses._layers import select_layers, select_states
from pellucid.losses._slices import find_held
from pellucid.losses._token_nll import widen


class AttentionBasedLoss(BaseLoss):
    """Reads attention patterns."""

    require_attentions = True


@dataclasses.dataclass
class AttentionEnhLoss(AttentionBasedLoss):
    """How little one part of the input is attended to by another: the negated mean attention.

    Where the trigger stands several times, its part is all of its places.

    Args:
        targeted_layers: Layer numbers from 0, negative ones from the last; all when None.
        src_slc_name: The part that is attended to.
        dst_slc_name: The part that attends.
    """

    targeted_layers: Sequence[int] | None = None
    src_slc_name: str = SliceKey.TRIGGER
    dst_slc_name: str = SliceKey.INPUT_AFTER

    def selections(self) -> dict[str, StateSelection]:
        """Say which layers and positions of attention patterns the loss reads."""
        wanted = select_states(self.targeted_layers, self.dst_slc_name, self.src_slc_name)
        return {"full_attentions": wanted}

    @boundary
    def __call__(
        self,
        full_attentions: Float[Tensor, "batch layer head query_pos key_pos"],
        input_slices: dict[str, slice],
        input_trigger_slots: list[TriggerSlot] | None = None,
        held_attentions: HeldStates | None = None,
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            full_attentions: Attention patterns, attending positions before those attended to.
            input_slices: Where the parts of the input lie.
            input_trigger_slots: Where the trigger stands, if in several places.
            held_attentions: Which layers and positions are given; all when None.

        Returns:
            Float, of shape (batch,), from -1 to 0.

        Raises:
            ArgumentError: (a ValueError) If there is no such layer, or no such part of the input.
        """
        n_dst, n_src = full_attentions.shape[3:]
        slots, held = input_trigger_slots, held_attentions
        dst = find_held(input_slices, self.dst_slc_name, n_dst, slots, held=held)
        src = find_held(input_slices, self.src_slc_name, n_src, slots, held=held, keys=True)
        patterns = select_layers(full_attentions, self.targeted_layers, held)[:, :, :, dst]
        return -widen(patterns[..., src]).flatten(1).mean(dim=-1)
