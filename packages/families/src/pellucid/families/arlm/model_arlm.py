"""The network of the family."""

from typing import ClassVar

from jaxtyping import Bool, Float, Integer
from torch import Tensor

from pellucid.xlm.modules import KeyValueCache, RotaryTransformer


class RotaryTransformerARLMModel(RotaryTransformer):
    """A rotary transformer that sees no token after the one it stands at.

    Its constructor is that of `RotaryTransformer`.
    """

    is_causal: ClassVar[bool] = True

    def forward(
        self,
        x_t: Integer[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "..."] | Integer[Tensor, "..."] | None = None,
        positions: Integer[Tensor, "batch pos"] | None = None,
        token_type_ids: Integer[Tensor, "batch pos"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "*shape d_vocab"]:
        """Compute logits of the token after each position.

        Args:
            x_t: Token ids.
            attention_mask: (batch, pos), False on padding; or (batch, query_pos, key_pos). Whatever
                it says, no token sees a later one.
            positions: Where tokens stand; counted over tokens that are no padding if None.
            token_type_ids: Not read: the network tells a prompt from a suffix by itself.
            where: The positions whose logits are wanted; all if None.
            cache: The state after the tokens before `x_t`; see `new_cache`.

        Returns:
            (batch, pos, d_vocab), or (picked_pos, d_vocab) if `where` is given.
        """
        del token_type_ids
        return self.run(x_t, attention_mask, positions, where=where, cache=cache)
