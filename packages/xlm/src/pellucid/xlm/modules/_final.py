"""The way out of a transformer."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class RotaryTransformerFinalLayer(nn.Module):
    """A norm and the projection to logits; the projection may be the embedding's own matrix."""

    def __init__(
        self,
        d_model: int,
        d_vocab: int,
        *,
        layer_norm_eps: float = 1e-5,
        use_normalization: bool = True,
        is_tied: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model, eps=layer_norm_eps) if use_normalization else None
        # A tied matrix belongs to the embedding alone, so that it is saved once.
        self.linear = None if is_tied else nn.Linear(d_model, d_vocab, bias=False)
        if self.linear is not None:
            nn.init.normal_(self.linear.weight, std=d_model**-0.5)

    def forward(
        self, x: Float[Tensor, "*shape d_model"], embeddings: Float[Tensor, "d_vocab d_model"]
    ) -> Float[Tensor, "*shape d_vocab"]:
        """Return logits.

        Args:
            x: The residual stream, at any positions.
            embeddings: The matrix to project with if the layer has none of its own.
        """
        x = x if self.norm is None else self.norm(x)
        return functional.linear(x, embeddings if self.linear is None else self.linear.weight)
