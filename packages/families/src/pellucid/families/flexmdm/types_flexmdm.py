"""What the parts of the family hand to each other."""

from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor


class FlexMDMBatch(TypedDict):
    """Whole texts; noise is drawn by the loss.

    Attributes:
        input_ids: Token ids, padded on the right. Each text ends with EOS, so that there is a slot
            after its last token.
        attention_mask: False on padding.
        fixed: True where a token is given: it is never removed or masked, and neither is EOS.
        target_ids: The tokens that may be removed or masked; `IGNORED` at all others.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    fixed: Bool[Tensor, "batch pos"]
    target_ids: NotRequired[Int64[Tensor, "batch pos"]]


class FlexMDMPredictionBatch(TypedDict):
    """Texts to grow.

    Attributes:
        input_ids: Token ids: prompts, padded on the left, and EOS; or any text. What is given
            stays, except masks, which are filled.
        attention_mask: False on padding, which stands on the left, on the right, or on both.
        fixed: True where nothing may be inserted to the left of a token.
        target_ids: What should be written.
        row_ids: The number of each row in its dataset; see `RowStreams`.
        row_seed: See `RowStreams`.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    fixed: Bool[Tensor, "batch pos"]
    target_ids: NotRequired[Int64[Tensor, "batch target_pos"] | None]
    row_ids: NotRequired[Int64[Tensor, " batch"]]
    row_seed: NotRequired[int]


class FlexMDMLossDict(TypedDict):
    """The loss of a batch.

    Attributes:
        loss: The sum of the two others, nats per token.
        unmask_loss: Of the tokens under the masks.
        insertion_loss: Of the numbers of missing tokens.
        tokens: How many tokens of each row may be removed or masked.
    """

    loss: Float[Tensor, ""]
    unmask_loss: Float[Tensor, ""]
    insertion_loss: Float[Tensor, ""]
    tokens: Int64[Tensor, " batch"]


Moment = tuple[str, float, int]
"""A text as it is at a time, after that many evaluations of the network."""


class FlexMDMPredictionDict(TypedDict):
    """Grown texts.

    Attributes:
        text: What was written in each row, without special tokens.
        ids: The whole of each row: what stood before the first slot, what was written, EOS, and
            padding.
        output_start_idx: The column in which what was asked for begins.
        time_taken: Seconds until each row was finished.
        steps_taken: Network evaluations that each row took part in.
        loss: Always None; here so that records of all families look alike.
        history: How each text came about, if that was asked for.
    """

    text: list[str]
    ids: Int64[Tensor, "batch pos"]
    output_start_idx: int
    time_taken: list[float]
    steps_taken: list[int]
    loss: None
    history: NotRequired[list[list[Moment]]]


@runtime_checkable
class FlexMDMNetwork(Protocol):
    """What the loss and the predictor ask of a network.

    Attributes:
        len_predict_type: "expectation" or "distribution".
    """

    len_predict_type: str

    def __call__(
        self,
        x_t: Int64[Tensor, "batch pos"],
        t: Float[Tensor, " batch"],
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> tuple[Float[Tensor, "*shape d_vocab"], Float[Tensor, "..."]]:
        """Return logits of the token at each position, or at those asked for, and gaps.

        Gaps are the numbers of tokens missing to the left of each position: expectations, (batch,
        pos), or logits of the numbers from 0, (batch, pos, n_classes).
        """
        ...
