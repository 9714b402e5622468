"""What the parts of the family hand to each other."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.xlm.sampling import FillBatch, FilledDict


class DreamPredictionBatch(FillBatch):
    """Prompts to go on with, or texts with masks to fill."""


class DreamPredictionDict(FilledDict):
    """Filled texts."""


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
