"""Losses over the residual stream."""

import dataclasses
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from pellucid.core import (
    BaseLoss,
    HeldStates,
    LossReads,
    SliceKey,
    StateSelection,
    TriggerSlot,
    boundary,
)
from pellucid.losses._layers import select_layers, select_states
from pellucid.losses._slices import find_held
from pellucid.losses._token_nll import widen


class HiddenStateBasedLoss(BaseLoss):
    """Reads the residual stream after each block."""

    require_hidden_states = True


@dataclasses.dataclass
class SteeringActivationLoss(HiddenStateBasedLoss):
    """How little of a direction there is in the residual stream, or how much.

    The projection `h . d / |d|`, in the mean over layers and positions, negated unless
    `steer_away`.

    Args:
        targeted_layers: Layer numbers from 0, negative ones from the last; all when None.
        steer_away: Whether to lower the projection, not to raise it.
        slc_name: The part of the input whose positions count; all positions when None. That of the
            trigger is all of its places.
        do_cosine_sim: Whether to scale each hidden state to length 1.
        apply_square: Whether to square each projection.
        apply_abs: Whether to take each projection's absolute value.
    """

    targeted_layers: Sequence[int] | None = None
    steer_away: bool = False
    slc_name: str | None = SliceKey.INPUT_LAST_TOKEN
    do_cosine_sim: bool = False
    apply_square: bool = False
    apply_abs: bool = False

    def reads(self) -> LossReads:
        """Say what the loss reads: where parts lie only if it counts a part."""
        always = frozenset({"full_hidden_states", "target_directions"})
        slices = frozenset({"input_slices"})
        others = frozenset({"input_trigger_slots", "held_hidden_states"})
        if self.slc_name is None:
            return LossReads(required=always, optional=slices | others)
        return LossReads(required=always | slices, optional=others)

    def selections(self) -> dict[str, StateSelection]:
        """Say which layers and positions of the residual stream the loss reads."""
        return {"full_hidden_states": select_states(self.targeted_layers, self.slc_name)}

    @boundary
    def __call__(
        self,
        full_hidden_states: Float[Tensor, "batch layer pos d_model"],
        target_directions: Float[Tensor, " d_model"],
        input_slices: dict[str, slice] | None = None,
        input_trigger_slots: list[TriggerSlot] | None = None,
        held_hidden_states: HeldStates | None = None,
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            full_hidden_states: The residual stream.
            target_directions: The direction; its length has no influence.
            input_slices: Where the parts of the input lie.
            input_trigger_slots: Where the trigger stands, if in several places.
            held_hidden_states: Which layers and positions are given; all when None.

        Returns:
            Float, of shape (batch,); 0 for a direction of length 0.

        Raises:
            ArgumentError: (a ValueError) If there is no such layer, or no such part of the input.
        """
        hidden = select_layers(full_hidden_states, self.targeted_layers, held_hidden_states)
        if self.slc_name is not None:
            counted = find_held(
                input_slices or {},
                self.slc_name,
                hidden.shape[2],
                input_trigger_slots,
                held=held_hidden_states,
            )
            hidden = hidden[:, :, counted]
        mean = self._project(widen(hidden), target_directions).flatten(1).mean(dim=-1)
        return mean if self.steer_away else -mean

    def _project(
        self,
        hidden: Float[Tensor, "batch layer pos d_model"],
        direction: Float[Tensor, " d_model"],
    ) -> Float[Tensor, "batch layer pos"]:
        if self.do_cosine_sim:
            hidden = normalize(hidden, dim=-1)
        projected = hidden @ normalize(direction.to(hidden), dim=-1)
        if self.apply_abs:
            projected = projected.abs()
        return projected.square() if self.apply_square else projected
