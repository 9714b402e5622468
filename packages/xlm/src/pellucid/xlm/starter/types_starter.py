"""What the parts of the family hand to each other."""

from typing import TypedDict

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.xlm.sampling import FillBatch, FilledDict


class StarterBatch(TypedDict):
    """Texts to learn from.

    Attributes:
        input_ids: Token ids, without a mask: the loss draws the masks.
        attention_mask: False on what is hidden from the network.
        target_ids: The token at each position that may be masked; `IGNORED` at all others.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    target_ids: Int64[Tensor, "batch pos"]


class StarterPredictionBatch(FillBatch):
    """Prompts to go on with."""


class StarterLossDict(TypedDict):
    """The loss of a batch.

    Attributes:
        loss: Mean cross-entropy of the masked tokens, in nats.
        tokens: How many tokens were masked in each row.
    """

    loss: Float[Tensor, ""]
    tokens: Int64[Tensor, " batch"]


class StarterPredictionDict(FilledDict):
    """Prompts that were gone on with."""
