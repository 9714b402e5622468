"""What the parts of the family hand to each other."""

from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.xlm.sampling import FillBatch, FilledDict


class MLMBatch(TypedDict):
    """Texts with masks in them.

    Attributes:
        input_ids: Token ids, the mask's where something is asked.
        attention_mask: False on what is hidden from the network.
        target_ids: The token that belongs at each position that could be masked; `IGNORED` at all
            others, such as those of a prompt.
        fixed_positions_mask: True where the input is given and never changes.
        positions: Where each token stands in its text; counted if absent.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    target_ids: Int64[Tensor, "batch pos"]
    fixed_positions_mask: NotRequired[Bool[Tensor, "batch pos"]]
    positions: NotRequired[Int64[Tensor, "batch pos"]]


class PackedMLMBatch(MLMBatch):
    """Several texts in each row, which do not see each other.

    Attributes:
        segment_ids: Which text of the row each token belongs to.
    """

    segment_ids: Int64[Tensor, "batch pos"]


class MLMPredictionBatch(FillBatch):
    """Prompts to go on with, or texts with masks to fill."""


class MLMLossDict(TypedDict):
    """The loss of a batch.

    Attributes:
        loss: Mean cross-entropy of what is asked about, in nats; 0 if that is nothing.
        tokens: How many tokens were asked about in each row.
    """

    loss: Float[Tensor, ""]
    tokens: Int64[Tensor, " batch"]


class MLMPredictionDict(FilledDict):
    """Filled texts."""


@runtime_checkable
class MLMModel(Protocol):
    """What the loss and the predictor ask of a network."""

    def __call__(
        self,
        x_t: Int64[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "..."] | None = None,
        positions: Int64[Tensor, "batch pos"] | None = None,
        block_mask: Any = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "... d_vocab"]:
        """Return logits of the token at each position, or at those asked for."""
        ...
