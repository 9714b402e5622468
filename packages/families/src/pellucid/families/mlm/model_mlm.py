"""The network of the family."""

from typing import Any

from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from pellucid.xlm.modules import RotaryTransformer, document_block_mask, document_mask


class RotaryTransformerMLMModel(RotaryTransformer):
    """A rotary transformer that sees the whole text.

    Its constructor is that of `RotaryTransformer`, and further

    Args:
        mask_idx: The id of the mask; kept for those who ask, the network treats it as any token.
        use_flex_attn: Attend within packed texts by flex attention where there is a GPU.
    """

    def __init__(
        self,
        num_embeddings: int,
        d_model: int,
        num_layers: int,
        nhead: int,
        *,
        mask_idx: int | None = None,
        use_flex_attn: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(num_embeddings, d_model, num_layers, nhead, **settings)
        self.mask_idx, self.use_flex_attn = mask_idx, use_flex_attn

    def forward(
        self,
        x_t: Integer[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "..."] | Integer[Tensor, "..."] | None = None,
        positions: Integer[Tensor, "batch pos"] | None = None,
        block_mask: BlockMask | Bool[Tensor, "batch query_pos key_pos"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "*shape d_vocab"]:
        """Compute logits of the token at each position.

        Args:
            x_t: Token ids.
            attention_mask: (batch, pos), False on what is hidden.
            positions: Where tokens stand; counted over what is not hidden if None.
            block_mask: Instead of `attention_mask`, for packed texts; see `mask_documents`.
            where: The positions whose logits are wanted; all if None.

        Returns:
            (batch, pos, d_vocab), or (picked_pos, d_vocab) if `where` is given.
        """
        mask = attention_mask if block_mask is None else block_mask
        return self.run(x_t, mask, positions, where=where)

    def mask_documents(
        self, segment_ids: Integer[Tensor, "batch pos"]
    ) -> BlockMask | Bool[Tensor, "batch query_pos key_pos"]:
        """Return the block mask that keeps the texts of a row apart.

        Flex attention cannot be trained on a CPU; there, and without `use_flex_attn`, it is a mask
        of all pairs.
        """
        is_flex = self.use_flex_attn and segment_ids.is_cuda
        return document_block_mask(segment_ids) if is_flex else document_mask(segment_ids)
