"""The network of the family."""

from jaxtyping import Bool, Float, Integer
from torch import Tensor

from pellucid.xlm.modules import RotaryTransformer


class StarterModel(RotaryTransformer):
    """A rotary transformer that sees the whole text.

    Its constructor is that of `RotaryTransformer`.
    """

    def forward(
        self,
        x_t: Integer[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
        positions: Integer[Tensor, "batch pos"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "*shape d_vocab"]:
        """Compute logits of the token at each position.

        Args:
            x_t: Token ids, the mask's where the token is wanted.
            attention_mask: False on what is hidden.
            positions: Where tokens stand; counted over what is not hidden if None.
            where: The positions whose logits are wanted; all if None.

        Returns:
            (batch, pos, d_vocab), or (picked_pos, d_vocab) if `where` is given.
        """
        return self.run(x_t, attention_mask, positions, where=where)
