"""What the parts of the family hand to each other."""

from typing import NotRequired, TypedDict

from jaxtyping import Bool, Float, Int64
from torch import Tensor


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


class StarterPredictionBatch(TypedDict):
    """Prompts to go on with.

    Attributes:
        input_ids: Prompts, padded on the left.
        attention_mask: False on what is hidden from the network.
        target_ids: What should be written after each prompt.
        row_ids: The number of each row in its dataset, which its random numbers follow from.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    target_ids: NotRequired[Int64[Tensor, "batch target_pos"]]
    row_ids: NotRequired[Int64[Tensor, " batch"]]


class StarterLossDict(TypedDict):
    """The loss of a batch.

    Attributes:
        loss: Mean cross-entropy of the masked tokens, in nats.
        tokens: How many tokens were masked in each row.
    """

    loss: Float[Tensor, ""]
    tokens: Int64[Tensor, " batch"]


class StarterPredictionDict(TypedDict):
    """Prompts that were gone on with.

    Attributes:
        text: What was written after each prompt.
        ids: The whole of each row.
        output_start_idx: The column in which what was written begins.
        time_taken: Seconds until each row was finished.
        steps_taken: Network evaluations that each row took part in.
        loss: Always None; here so that records of all families look alike.
    """

    text: list[str]
    ids: Int64[Tensor, "batch pos"]
    output_start_idx: int
    time_taken: list[float]
    steps_taken: list[int]
    loss: None
