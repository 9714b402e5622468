"""What the parts of the family hand to each other."""

from collections.abc import Mapping
from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor

PADDING_TYPE, CLS_TYPE, PROMPT_TYPE, SUFFIX_TYPE = -1, 0, 1, 2
"""Token types. Only after tokens of the last one, of which BOS is the first, is there a slot."""


class ILMBatch(TypedDict):
    """Texts with some tokens dropped.

    Attributes:
        input_ids: CLS, the prompt, BOS, and what was kept; padding after it.
        attention_mask: False on padding.
        token_type_ids: Which of the four types each token has.
        target_ids: The tokens that follow BOS, with none of them dropped; `IGNORED` after them.
        target_slots: For each of them that was dropped, the column of `input_ids` after which it
            belongs, and `IGNORED` for the others. What was dropped twice from one gap stands here
            twice: a count for every slot and token, and nothing for all those that are zero.
        constraint: True after which nothing may be inserted, besides the prompt.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    token_type_ids: Int64[Tensor, "batch pos"]
    target_ids: Int64[Tensor, "batch target_pos"]
    target_slots: Int64[Tensor, "batch target_pos"]
    constraint: NotRequired[Bool[Tensor, "batch pos"]]


class ILMPredictionBatch(TypedDict):
    """Prompts to complete.

    Attributes:
        input_ids: CLS, the prompt, BOS, and perhaps tokens after it; padding on either side.
        attention_mask: False on padding.
        token_type_ids: Which of the four types each token has; from BOS on, there are slots.
        target_ids: What should follow BOS, with padding after it.
        constraint: True after which nothing may be inserted, besides the prompt.
        oracle_length: The most tokens of each row, all of them counted, where that is known.
        row_ids: The number of each row in its dataset; see `RowStreams`.
        row_seed: See `RowStreams`.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    token_type_ids: Int64[Tensor, "batch pos"]
    target_ids: NotRequired[Int64[Tensor, "batch target_pos"] | None]
    constraint: NotRequired[Bool[Tensor, "batch pos"]]
    oracle_length: NotRequired[Int64[Tensor, " batch"]]
    row_ids: NotRequired[Int64[Tensor, " batch"]]
    row_seed: NotRequired[int]


class ILMLossDict(TypedDict):
    """The loss of a batch; all but `loss` are there to be looked at.

    Attributes:
        loss: The mean of `batch_loss`, in nats.
        batch_loss: Of each row, what follows put together.
        per_example_ce: The mean of the dropped tokens' nats; 0 where nothing was dropped.
        per_example_length_loss: The nats of whether, or how many, tokens are missing.
        length_logits: What the network says of that; None if it has no head for it.
        n_drops: How many tokens are missing.
    """

    loss: Float[Tensor, ""]
    batch_loss: Float[Tensor, " batch"]
    per_example_ce: Float[Tensor, " batch"]
    per_example_length_loss: Float[Tensor, " batch"]
    length_logits: Float[Tensor, "batch n_classes"] | None
    n_drops: Int64[Tensor, " batch"]


class ILMPredictionDict(TypedDict):
    """Completed texts.

    Attributes:
        text: What was inserted in each row, in the order of the text, without special tokens.
        text_with_spl_tokens: The same with special tokens.
        ids: The prompts as they were given, and what was inserted after them.
        attention_mask: False on padding.
        positions: Where each token stands in its text.
        output_start_idx: The column in which what follows the prompts begins.
        time_taken: Seconds until each row was finished.
        steps_taken: Network evaluations that each row took part in.
        history: For each row, the text after each insertion and the step that made it; empty
            unless that was asked for.
    """

    text: list[str]
    text_with_spl_tokens: list[str]
    ids: Int64[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    positions: Int64[Tensor, "batch pos"]
    output_start_idx: int
    time_taken: list[float]
    steps_taken: list[int]
    history: list[list[tuple[str, int]]]


def slots_of(batch: Mapping[str, Any]) -> Bool[Tensor, "batch pos"]:
    """Return after which tokens something may be inserted: from BOS on, if nothing forbids it."""
    slots = batch["token_type_ids"] == SUFFIX_TYPE
    constraint = batch.get("constraint")
    return slots if constraint is None else slots & ~constraint


@runtime_checkable
class ILMModel(Protocol):
    """What the loss and the predictor ask of a network."""

    def __call__(
        self,
        x_t: Int64[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
        positions: Int64[Tensor, "batch pos"] | None = None,
        token_type_ids: Int64[Tensor, "batch pos"] | None = None,
        cls_position: Int64[Tensor, " batch"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> tuple[Float[Tensor, "*shape d_vocab"], Float[Tensor, "batch n_classes"] | None]:
        """Return logits of what belongs after each token, and of how much is missing."""
        ...
