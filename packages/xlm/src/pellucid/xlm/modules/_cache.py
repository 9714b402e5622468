"""Keys and values of tokens that were read before."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor


class KeyValueCache:
    """The state of a causal transformer in the middle of a text.

    Its buffers are allocated once, for the longest text; rows that are finished can be taken out,
    so that no work is done for them.

    Attributes:
        length: How many tokens were read.
        last: Embedding and position of the last token read, for layers that look at neighbours.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Allocate the buffers.

        Args:
            shape: (layers, rows, heads, d_head).
            max_length: The most tokens that will be read.
            dtype: That of keys and values.
            device: Where they are.
        """
        layers, rows, heads, d_head = shape
        size = (rows, heads, max_length, d_head)
        self._keys = [torch.empty(size, dtype=dtype, device=device) for _ in range(layers)]
        self._values = [torch.empty(size, dtype=dtype, device=device) for _ in range(layers)]
        self.max_length = max_length
        self.length = 0
        self.last: tuple[Float[Tensor, "batch 1 d_model"], Integer[Tensor, "batch 1"]] | None = None

    def extend(
        self,
        layer: int,
        keys: Float[Tensor, "batch head pos d_head"],
        values: Float[Tensor, "batch head pos d_head"],
    ) -> tuple[
        Float[Tensor, "batch head key_pos d_head"], Float[Tensor, "batch head key_pos d_head"]
    ]:
        """Write the keys and values of new tokens; return those of all tokens, as views."""
        end = self.length + keys.shape[2]
        self._keys[layer][:, :, self.length : end] = keys
        self._values[layer][:, :, self.length : end] = values
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def advance(self, n_tokens: int) -> None:
        """Count tokens that every layer has written."""
        self.length += n_tokens

    def keep_rows(self, kept: Bool[Tensor, " batch"]) -> None:
        """Forget all other rows."""
        n_kept = int(kept.sum())
        for buffers in (self._keys, self._values):
            for index, buffer in enumerate(buffers):
                rows = buffer[kept, :, : self.length]
                buffers[index] = buffer[:n_kept]
                buffers[index][:, :, : self.length] = rows
        if self.last is not None:
            embedding, position = self.last
            self.last = embedding[kept], position[kept]
