"""What the network's answer means: substitution of masks by clean tokens, and nothing else."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from pellucid.xlm.modules import TokenConstraints


def forbid_mask(
    logits: Float[Tensor, "*shape d_vocab"], mask_id: int
) -> Float[Tensor, "*shape d_vocab"]:
    """Return the logits, in single precision at least, with minus infinity for the mask.

    A clean text has no mask in it.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return TokenConstraints((mask_id,)).restrict(wide)


def subs_log_probs(
    logits: Float[Tensor, "batch pos d_vocab"], x_t: Integer[Tensor, "batch pos"], mask_id: int
) -> Float[Tensor, "batch pos d_vocab"]:
    """Return log-probabilities of clean tokens in the SUBS form (Sahoo et al. 2024).

    The mask has probability zero, and a token that is no mask is carried over: it has probability
    one where it stands.

    Args:
        logits: Of the network.
        x_t: The text that it read.
        mask_id: The id of the mask.
    """
    carried = torch.full_like(logits, -torch.inf, dtype=torch.float32)
    carried = carried.scatter(-1, x_t[..., None].long(), 0.0)
    wanted = forbid_mask(logits, mask_id).log_softmax(dim=-1)
    return torch.where((x_t == mask_id)[..., None], wanted, carried.to(wanted.dtype))
