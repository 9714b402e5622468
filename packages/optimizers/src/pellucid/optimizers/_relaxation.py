"""Relaxed samples of tokens."""

import torch
from jaxtyping import Float
from torch import Tensor


def draw_gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Return independent draws from the standard Gumbel distribution, float32, on the CPU."""
    return -torch.empty(shape).exponential_(generator=generator).clamp_min(1e-38).log()


def relax_sample(
    logits: Float[Tensor, "trigger_pos n_allowed"],
    noise: Float[Tensor, "n_candidates trigger_pos n_allowed"],
    temperature: float,
) -> Float[Tensor, "n_candidates trigger_pos n_allowed"]:
    """Return Gumbel-softmax samples (Jang et al. 2017, arXiv 1611.01144) for given noise."""
    return ((logits + noise) / temperature).softmax(dim=-1)


def pull_back(
    probs: Float[Tensor, "*shape n_allowed"],
    grads: Float[Tensor, "*shape n_allowed"],
    temperature: float,
) -> Float[Tensor, "*shape n_allowed"]:
    """Return the gradient with regard to logits, given that with regard to their softmax."""
    centred = grads - (probs * grads).sum(dim=-1, keepdim=True)
    return probs * centred / temperature
