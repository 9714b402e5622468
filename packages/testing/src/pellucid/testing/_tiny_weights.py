"""The arithmetic of the tiny models: seeded weights and one forward pass over embeddings."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_NEVER = -30.0


class LMPass(NamedTuple):
    """What one forward pass of a language model computes."""

    logits: Float[Tensor, "batch pos d_vocab"]
    hidden: Float[Tensor, "batch pos d_model"]
    attention: Float[Tensor, "batch query_pos key_pos"]


class LMWeights(nn.Module):
    """One causal attention head and one mixing layer between an embedding and a head.

    Args:
        d_vocab: Rows of the embedding table.
        d_model: The width of the residual stream.
        n_unused: How many of the last rows the model never predicts.
        generator: Where the weights come from.
    """

    def __init__(
        self, d_vocab: int, d_model: int, n_unused: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        narrow = 1 / math.sqrt(d_model)
        self.embedding = _draw(generator, d_vocab, d_model)
        self.query = _draw(generator, d_model, d_model, scale=1.5 * narrow)
        self.key = _draw(generator, d_model, d_model, scale=1.5 * narrow)
        self.value = _draw(generator, d_model, d_model, scale=narrow)
        self.mix = _draw(generator, d_model, d_model, scale=narrow)
        self.mix_bias = _draw(generator, d_model, scale=0.3)
        self.head = _draw(generator, d_model, d_vocab, scale=2 * narrow)
        self.head_bias = _draw(generator, d_vocab, scale=0.5)
        self.head_bias.data[d_vocab - n_unused :] = _NEVER

    def forward(self, embeds: Float[Tensor, "batch pos d_model"]) -> LMPass:
        """Run the model; padding on the right changes nothing to its left."""
        x = _add_positions(embeds)
        scores = (x @ self.query) @ (x @ self.key).mT / math.sqrt(x.shape[-1])
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        attention = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
        x = x + attention @ (x @ self.value)
        x = x + torch.tanh(x @ self.mix + self.mix_bias)
        return LMPass(x @ self.head + self.head_bias, x, attention)


class EncoderWeights(nn.Module):
    """A hidden layer at each position, their mean, and a projection.

    Args:
        d_vocab: Rows of the embedding table.
        d_model: The width of embeddings and of the vectors.
        generator: Where the weights come from.
    """

    def __init__(self, d_vocab: int, d_model: int, generator: torch.Generator) -> None:
        super().__init__()
        narrow = 1 / math.sqrt(d_model)
        self.embedding = _draw(generator, d_vocab, d_model)
        self.mix = _draw(generator, d_model, 2 * d_model, scale=narrow)
        self.mix_bias = _draw(generator, 2 * d_model, scale=0.3)
        self.project = _draw(generator, 2 * d_model, d_model, scale=narrow)
        self.project_bias = _draw(generator, d_model, scale=0.1)

    def forward(
        self, embeds: Float[Tensor, "batch pos d_model"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch d_model"]:
        """Return one vector for each row; positions from its length on do not count."""
        mixed = torch.tanh(_add_positions(embeds) @ self.mix + self.mix_bias)
        counts = torch.arange(embeds.shape[1]) < lengths[:, None]
        # A row of no tokens has the mean 0, not NaN.
        mean = (mixed * counts[..., None]).sum(dim=1) / lengths.clamp(min=1)[:, None]
        return mean @ self.project + self.project_bias


def _draw(generator: torch.Generator, *shape: int, scale: float = 1.0) -> nn.Parameter:
    # Always drawn in float32: a model in float64 is the same model, computed more finely.
    return nn.Parameter(torch.randn(shape, generator=generator) * scale, requires_grad=False)


def _add_positions(
    embeds: Float[Tensor, "batch pos d_model"],
) -> Float[Tensor, "batch pos d_model"]:
    n_pos, d_model = embeds.shape[1:]
    positions = torch.arange(n_pos, dtype=embeds.dtype)[:, None]
    frequencies = torch.linspace(0.05, 1.5, d_model, dtype=embeds.dtype)
    return embeds + torch.sin(positions * frequencies)
