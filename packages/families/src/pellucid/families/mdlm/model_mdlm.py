"""The network of the family."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.families.mdlm._subs import subs_log_probs
from pellucid.xlm.modules import DDiT


class MDLMModel(DDiT):
    """A transformer that sees the whole text and is told how much of it is masked.

    It is told the share of tokens that are masked on average, 1 - exp(-noise), and not the noise or
    the time: so what it has learnt holds under any noise schedule. Its constructor is that of
    `DDiT`, and further

    Args:
        mask_idx: The id of the mask, which `log_probs` asks for.
        time_conditioning: Tell it; if False it sees the masks and nothing else.
    """

    def __init__(
        self,
        num_embeddings: int,
        d_model: int,
        num_layers: int,
        nhead: int,
        *,
        mask_idx: int | None = None,
        time_conditioning: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(num_embeddings, d_model, num_layers, nhead, **settings)
        self.mask_idx, self.time_conditioning = mask_idx, time_conditioning

    def forward(
        self,
        x_t: Integer[Tensor, "batch pos"],
        noise: Float[Tensor, " batch"] | None = None,
        attention_mask: Bool[Tensor, "..."] | Integer[Tensor, "..."] | None = None,
        positions: Integer[Tensor, "batch pos"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "*shape d_vocab"]:
        """Compute logits of the clean token at each position.

        Args:
            x_t: Token ids.
            noise: Total noise of each row, nats; not read without `time_conditioning`.
            attention_mask: (batch, pos), False on what is hidden.
            positions: Where tokens stand; counted over what is not hidden if None.
            where: The positions whose logits are wanted; all if None.

        Returns:
            (batch, pos, d_vocab), or (picked_pos, d_vocab) if `where` is given.

        Raises:
            ArgumentError: The noise is needed and not given.
        """
        conditioning = self.timestep(self._share(x_t, noise))
        return self.run(x_t, attention_mask, positions, conditioning, where=where)

    def log_probs(
        self,
        x_t: Integer[Tensor, "batch pos"],
        noise: Float[Tensor, " batch"] | None = None,
        attention_mask: Bool[Tensor, "..."] | Integer[Tensor, "..."] | None = None,
        positions: Integer[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Return log-probabilities of clean tokens: see `subs_log_probs`.

        Args:
            x_t: Token ids.
            noise: See `forward`.
            attention_mask: See `forward`.
            positions: See `forward`.

        Raises:
            ArgumentError: The model was not told which token the mask is.
        """
        if self.mask_idx is None:
            message = "mask_idx is None; build the model with the id of the mask"
            raise ArgumentError(message)
        return subs_log_probs(self(x_t, noise, attention_mask, positions), x_t, self.mask_idx)

    def _share(
        self, x_t: Integer[Tensor, "batch pos"], noise: Float[Tensor, " batch"] | None
    ) -> Float[Tensor, " batch"]:
        if not self.time_conditioning:
            return torch.zeros(len(x_t), device=x_t.device)
        if noise is None:
            message = (
                "noise is None, and the model is told how noisy each row is; give the total noise "
                "of each, or build the model with time_conditioning=False"
            )
            raise ArgumentError(message)
        return -torch.expm1(-noise)
