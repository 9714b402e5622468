"""What a token is to the tokens beside it."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional

from pellucid.xlm.modules._cache import KeyValueCache


class NeighbourMixing(nn.Module):
    """Add to every token a linear map of the token before it, and of the one after it.

    This is a convolution of width three, or of width two where the future is hidden. Attention
    finds a token by what stands beside it, as when edges of a graph are pairs of tokens, only after
    a layer has learnt to look one position back; that takes thousands of steps on a plateau, which
    are spared where neighbours are mixed from the start.

    Two tokens are neighbours if their positions differ by one: what is padded, or packed beside
    another document, is read as it would be alone.
    """

    def __init__(self, d_model: int, *, is_causal: bool) -> None:
        super().__init__()
        self.before = nn.Linear(d_model, d_model, bias=False)
        self.after = None if is_causal else nn.Linear(d_model, d_model, bias=False)
        for linear in (self.before, self.after):
            if linear is not None:
                nn.init.normal_(linear.weight, std=(3 * d_model) ** -0.5)

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        positions: Integer[Tensor, "batch pos"] | None,
        *,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Mix.

        Args:
            x: Embeddings.
            positions: Where they stand; 0, 1, 2, ... if None.
            cache: Holds the token before the first of `x`, and receives the last of them.
        """
        if cache is not None:
            return self._go_on(x, positions, cache)
        before, after = x[:, :-1], x[:, 1:]
        if positions is not None:
            are_beside = (positions.diff(dim=1) == 1)[..., None]
            before, after = before * are_beside, after * are_beside
        mixed = x + functional.pad(self.before(before), (0, 0, 1, 0))
        return mixed if self.after is None else mixed + _pad_end(self.after(after))

    def _go_on(
        self,
        x: Float[Tensor, "batch pos d_model"],
        positions: Integer[Tensor, "batch pos"] | None,
        cache: KeyValueCache,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Mix the tokens of a text that was begun before."""
        if positions is None:
            start, end = cache.length, cache.length + x.shape[1]
            positions = torch.arange(start, end, device=x.device).expand(x.shape[0], -1)
        last, cache.last = cache.last, (x[:, -1:], positions[:, -1:])
        if last is None:
            return self(x, positions)
        held = (torch.cat((last[0], x), dim=1), torch.cat((last[1], positions), dim=1))
        return self(*held)[:, 1:]


def _pad_end(x: Float[Tensor, "batch lag d_model"]) -> Float[Tensor, "batch pos d_model"]:
    return functional.pad(x, (0, 0, 0, 1))
