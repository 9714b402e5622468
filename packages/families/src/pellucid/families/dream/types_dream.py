"""What the parts of the family hand to each other."""

from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor


class DreamPredictionBatch(TypedDict):
    """Prompts to complete, or texts to fill.

    Attributes:
        input_ids: Prompts, padded on the left, or texts with masks in them.
        attention_mask: False on what is hidden from the network.
        target_ids: What should be written after the prompt; absent if that is unknown.
        fixed_positions_mask: True where the input is given and never changes; everything but masks
            if absent.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: NotRequired[Bool[Tensor, "batch pos"]]
    target_ids: NotRequired[Int64[Tensor, "batch target_pos"] | None]
    fixed_positions_mask: NotRequired[Bool[Tensor, "batch pos"]]


class DreamPredictionDict(TypedDict):
    """Filled texts.

    Attributes:
        text: What was written in each row, up to its first EOS, without special tokens.
        ids: The whole of each row.
        output_start_idx: The column in which what was asked for begins.
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


@runtime_checkable
class DreamNetwork(Protocol):
    """What the predictor asks of a network; `DreamModel` makes one of a causal language model."""

    def __call__(
        self,
        x_t: Int64[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "..."] | None = None,
        positions: Int64[Tensor, "batch pos"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "... d_vocab"]:
        """Return logits of the token at each position, or at those asked for.

        The mask is (batch, pos), False on what is hidden, or (batch, query_pos, key_pos).
        """
        ...


@runtime_checkable
class KeyValues(Protocol):
    """Keys and values of tokens that were read, as the caches of transformers hold them."""

    def crop(self, tokens_to_remove: int) -> Any:
        """Forget the last tokens, as many as the negative number says."""
        ...

    def batch_select_indices(self, indices: Int64[Tensor, " kept"]) -> Any:
        """Forget all rows but some."""
        ...


@runtime_checkable
class CachingNetwork(DreamNetwork, Protocol):
    """A network that can go on from tokens it has read.

    Attributes:
        is_shifted: Whether it reads the logits of a position from the token before it.
    """

    is_shifted: bool

    def extend(
        self,
        x_t: Int64[Tensor, "batch query_pos"],
        attention_mask: Bool[Tensor, "batch query_pos key_pos"],
        positions: Int64[Tensor, "batch query_pos"],
        *,
        where: Bool[Tensor, "batch query_pos"],
        cache: KeyValues | None,
    ) -> tuple[Float[Tensor, "picked_pos d_vocab"], KeyValues]:
        """Return logits of the positions asked for, and the state after the tokens given."""
        ...
