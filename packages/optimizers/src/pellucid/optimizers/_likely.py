"""What a language model expects to read where a trigger stands."""

import torch
from jaxtyping import Int64
from torch import Tensor

from pellucid.optimizers._problem import Problem
from pellucid.optimizers._questions import question


@question(alone=lambda _: True)
def rank_likely(
    problem: Problem,
    triggers: Int64[Tensor, "n_candidates trigger_pos"],
    allowed_ids: Int64[Tensor, " n_allowed"],
    *,
    k: int,
) -> Int64[Tensor, "trigger_pos k"]:
    """Return the k allowed tokens of highest logit for each position, the highest first.

    Logits are the mean over triggers and templates. They are computed for one trigger after the
    other, since they are as long as the vocabulary, and stay on the model's device.

    Args:
        problem: Its model is a language model that gives logits of token ids.
        triggers: What stands before a position is what the model has read.
        allowed_ids: The tokens to choose from, ascending.
        k: How many tokens for each position.
    """
    device = problem.model.device
    columns = allowed_ids.to(device)
    logits = torch.zeros(triggers.shape[1], len(allowed_ids), device=device)
    for trigger in triggers:
        found = problem.model.compute_logits_from_tokens(
            trigger[None].to(device), return_trigger_logits_only=True
        )
        logits += found[0, :, columns].float()
    return allowed_ids[logits.topk(k, dim=-1, sorted=True).indices.cpu()]
