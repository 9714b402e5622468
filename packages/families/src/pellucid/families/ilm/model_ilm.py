"""The networks of the family."""

from typing import Any

from jaxtyping import Bool, Float, Integer
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.families.ilm._head import ClassificationHead
from pellucid.xlm.modules import RotaryTransformer


class RotaryTransformerILMModel(RotaryTransformer):
    """A rotary transformer that says which tokens are missing after each token.

    Its constructor is that of `RotaryTransformer`. It does not say whether any are missing at all.
    """

    def forward(
        self,
        x_t: Integer[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
        positions: Integer[Tensor, "batch pos"] | None = None,
        token_type_ids: Integer[Tensor, "batch pos"] | None = None,
        cls_position: Integer[Tensor, " batch"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> tuple[Float[Tensor, "*shape d_vocab"], Float[Tensor, "batch n_classes"] | None]:
        """Compute logits of slots and tokens, and of how much is missing.

        Args:
            x_t: Token ids; in the order of the text where `mix_neighbours` is set.
            attention_mask: False on padding.
            positions: Where tokens stand; counted over the tokens that are no padding if None.
            token_type_ids: Not read: the network tells a prompt from a suffix by BOS.
            cls_position: The column of CLS in each row; the first one if None.
            where: The slots whose logits are wanted; all if None.

        Returns:
            (batch, pos, d_vocab), or (picked_pos, d_vocab) if `where` is given: of each token after
            each token, to be normalised over all slots of a row together. And (batch, n_classes),
            or None if the network has no such head.
        """
        del token_type_ids
        hidden = self.encode(x_t, attention_mask, positions)
        logits = self.read_out(hidden if where is None else hidden[where])
        return logits, self.count_missing(_pick(hidden, cls_position))

    def count_missing(
        self, summary: Float[Tensor, "batch d_model"]
    ) -> Float[Tensor, "batch n_classes"] | None:
        """Return logits of how much is missing, from the residual stream at CLS."""
        del summary
        return None


class RotaryTransformerILMModelWithLengthClassification(RotaryTransformerILMModel):
    """The same network, which also says how many tokens are missing.

    Its constructor is that of `RotaryTransformer`, and further

    Args:
        num_classes: From none missing to `num_classes - 1` or more.

    Raises:
        ArgumentError: There are fewer than two classes.
    """

    def __init__(
        self,
        num_embeddings: int,
        d_model: int,
        num_layers: int,
        nhead: int,
        *,
        num_classes: int,
        layer_norm_eps: float = 1e-5,
        **settings: Any,
    ) -> None:
        if num_classes < 2:
            message = f"num_classes is {num_classes!r}; tell at least none from some"
            raise ArgumentError(message)
        super().__init__(
            num_embeddings, d_model, num_layers, nhead, layer_norm_eps=layer_norm_eps, **settings
        )
        self.num_classes = num_classes
        self.length_head = ClassificationHead(d_model, num_classes, layer_norm_eps=layer_norm_eps)

    def count_missing(
        self, summary: Float[Tensor, "batch d_model"]
    ) -> Float[Tensor, "batch n_classes"]:
        """Return logits of how many tokens are missing; class 0 is none."""
        return self.length_head(summary)


class RotaryTransformerILMModelWithStoppingClassification(
    RotaryTransformerILMModelWithLengthClassification
):
    """The same network, which also says whether any tokens are missing at all.

    Its constructor is that of `RotaryTransformer`. Class 0 is to stop, class 1 to go on.
    """

    def __init__(
        self, num_embeddings: int, d_model: int, num_layers: int, nhead: int, **settings: Any
    ) -> None:
        super().__init__(num_embeddings, d_model, num_layers, nhead, num_classes=2, **settings)


def _pick(
    hidden: Float[Tensor, "batch pos d_model"], columns: Integer[Tensor, " batch"] | None
) -> Float[Tensor, "batch d_model"]:
    if columns is None:
        return hidden[:, 0]
    return hidden.take_along_dim(columns[:, None, None], dim=1)[:, 0]
