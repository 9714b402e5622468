"""What the parts of the family hand to each other."""

from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor

PROMPT_TYPE, SUFFIX_TYPE, PADDING_TYPE = 0, 1, 2
"""Token types: what is given, what is to be predicted, and what is neither."""


class ARLMBatch(TypedDict):
    """Texts to learn from.

    Attributes:
        input_ids: Token ids.
        attention_mask: False on padding.
        target_ids: The token after each one; `IGNORED` where there is none.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    target_ids: Int64[Tensor, "batch pos"]


class ARLMSeq2SeqBatch(ARLMBatch):
    """Prompts, padded on the left, and suffixes, padded on the right, side by side.

    Attributes:
        token_type_ids: Which of the three types each token has.
    """

    token_type_ids: Int64[Tensor, "batch pos"]


class ARLMPredictionBatch(TypedDict):
    """Prompts to complete.

    Attributes:
        input_ids: Prompts, padded on the left.
        attention_mask: False on padding.
        token_type_ids: The types of the prompt's tokens.
        target_ids: What should follow, with padding after it; absent if that is unknown.
        row_ids: The number of each row in its dataset; see `RowStreams`.
        row_seed: See `RowStreams`.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    token_type_ids: NotRequired[Int64[Tensor, "batch pos"]]
    target_ids: NotRequired[Int64[Tensor, "batch target_pos"]]
    row_ids: NotRequired[Int64[Tensor, " batch"]]
    row_seed: NotRequired[int]


class ARLMLossDict(TypedDict):
    """The loss of a batch.

    Attributes:
        loss: Mean over the tokens asked about, in nats; 0 if there are none.
        nats: Sum over the tokens of each row, in nats, without gradient.
        tokens: How many tokens were asked about in each row.
    """

    loss: Float[Tensor, ""]
    nats: Float[Tensor, " batch"]
    tokens: Int64[Tensor, " batch"]


class ARLMPredictionDict(TypedDict):
    """Completions of a batch.

    Attributes:
        text: The completion of each row, without special tokens.
        text_with_spl_tokens: The same with them, up to the end of the text.
        ids: Prompts and completions; padding after the end.
        attention_mask: False on padding, on either side.
        positions: Where each token stands in its text.
        output_start_idx: The column in which completions begin.
        time_taken: Seconds until each row was finished.
        steps_taken: Network evaluations that each row took part in.
    """

    text: list[str]
    text_with_spl_tokens: list[str]
    ids: Int64[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    positions: Int64[Tensor, "batch pos"]
    output_start_idx: int
    time_taken: list[float]
    steps_taken: list[int]


@runtime_checkable
class ARLMModel(Protocol):
    """What the loss and the predictor ask of a network."""

    def __call__(
        self,
        x_t: Int64[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "..."] | None = None,
        positions: Int64[Tensor, "batch pos"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "... d_vocab"]:
        """Return logits of the next token: of every position, or of those asked for."""
        ...
