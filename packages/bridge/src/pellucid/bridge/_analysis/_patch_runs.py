"""Runs with one activation patched in each row: many cells of a grid in one forward pass."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from pellucid.bridge._errors import HookError
from pellucid.core import ArgumentError

# How many logits, and how many positions, one batch may have: 128 MB of logits in single precision.
_N_LOGITS = 2**25
_N_POSITIONS = 2**14


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One patch.

    Attributes:
        place: Its place in the grid, flattened.
        index: Its place along each axis.
        name: Canonical name of the activation.
        layer: The block that it belongs to, if to any.
    """

    place: int
    index: tuple[int, ...]
    name: str
    layer: int | None


Edit = Callable[[Tensor, Cell], Any]
"""Takes an activation of the batch and a cell; returns the patched one, or changes it in place."""


class PatchRuns:
    """Forward passes of one batch of tokens, each time with another activation patched.

    The batch is repeated along its first axis, once for each cell. Cells of a block start there,
    from the stream of a run without patches, where the model can be started at a block: a trial
    on the last block says.

    Args:
        model: A bridge.
        tokens: What to run on, of shape (batch, pos).
        attention_mask: 0 where a position is padding.
        cells_per_batch: How many cells share a forward pass; as many as memory allows if None.
    """

    def __init__(
        self,
        model: Any,
        tokens: Any,
        *,
        attention_mask: Tensor | None = None,
        cells_per_batch: int | None = None,
    ) -> None:
        if cells_per_batch is not None and cells_per_batch < 1:
            raise ArgumentError(f"cells_per_batch must be at least 1, got {cells_per_batch!r}.")
        self.model = model
        self.tokens = read_tokens(model, tokens)
        self._mask = attention_mask
        self._n_rows = len(self.tokens)
        self._limit = cells_per_batch
        self._streams: dict[int, Tensor] = {}

    @property
    def limit(self) -> int:
        """How many cells share a forward pass at most."""
        if self._limit is not None:
            return self._limit
        n_positions = self.tokens.numel()
        n_logits = n_positions * max(self.model.cfg.d_vocab_out, 1)
        return max(1, min(_N_LOGITS // n_logits, _N_POSITIONS // n_positions))

    def run(self, cells: Iterable[Cell], edit: Edit) -> Iterator[tuple[Cell, Tensor]]:
        """Yield each cell with the logits of its run, of shape (batch, pos, d_vocab).

        Cells come back in an order of their own: those of one activation follow each other.

        Args:
            cells: What to patch.
            edit: How.
        """
        groups: dict[str, list[Cell]] = {}
        for cell in cells:
            groups.setdefault(cell.name, []).append(cell)
        self._prepare({cell.layer for held in groups.values() for cell in held})
        for name, held in groups.items():
            for chunk in self._split(held):
                logits = self._run_chunk(name, chunk, edit)
                for cell, rows in zip(chunk, logits.split(self._n_rows), strict=True):
                    yield cell, rows

    def run_plain(self, **more: Any) -> Any:
        """Run without patches."""
        return self.model(self.tokens, **self._masked(1), **more)

    def _masked(self, n: int) -> dict[str, Any]:
        return {} if self._mask is None else {"attention_mask": self._mask.repeat(n, 1)}

    def _split(self, cells: Sequence[Cell]) -> Iterator[Sequence[Cell]]:
        n_chunks = math.ceil(len(cells) / self.limit)
        size = math.ceil(len(cells) / n_chunks)
        for start in range(0, len(cells), size):
            yield cells[start : start + size]

    def _run_chunk(self, name: str, chunk: Sequence[Cell], edit: Edit) -> Tensor:
        n = len(chunk)

        def patch(value: Tensor, hook: Any) -> Tensor:
            if len(value) != n * self._n_rows:
                raise HookError(
                    f"{name!r} has {len(value)} rows in a batch of {n * self._n_rows}, so its "
                    "samples cannot be told apart. Pass cells_per_batch=1."
                )
            made = value.clone()
            for cell, rows in zip(chunk, made.split(self._n_rows), strict=True):
                patched = edit(rows, cell)
                if patched is not None and patched is not rows:
                    rows.copy_(patched)
            return made

        layer = chunk[0].layer
        stream = None if layer is None else self._streams.get(layer)
        given = self.tokens if stream is None else stream
        start = {} if stream is None else {"start_at_layer": layer}
        given = given.repeat(n, *[1] * (given.ndim - 1))
        hooks = [(name, patch)]
        return self.model.run_with_hooks(given, fwd_hooks=hooks, **self._masked(n), **start)

    def _prepare(self, layers: set[int | None]) -> None:
        """Keep the streams that runs may start from."""
        stacks = self.model._stacks
        wanted = sorted(layer for layer in layers if layer)
        if self._streams or not wanted or len(stacks) != 1:
            return
        name, blocks = next(iter(stacks.items()))
        last = len(blocks) - 1
        names = {n: f"{name}.{n}.hook_in" for n in {*wanted, last}}
        logits, cache = self.model.run_with_cache(
            self.tokens, names_filter=list(names.values()), **self._masked(1)
        )
        streams = {number: cache[held] for number, held in names.items()}
        again = self.model(streams[last], start_at_layer=last, **self._masked(1))
        # Some models hand more than the stream from block to block.
        size = float(logits.abs().max())
        if float((again - logits).abs().max()) <= 1e-4 * max(1.0, size):
            self._streams = {number: streams[number] for number in wanted}


def read_tokens(model: Any, tokens: Any) -> Tensor:
    """Return token ids of shape (batch, pos) for a text, a list of texts or ids.

    Raises:
        ArgumentError: (a ValueError) If it is none of these.
    """
    if isinstance(tokens, (str, list)):
        tokens = model.to_tokens(tokens)
    if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.ndim not in (1, 2):
        raise ArgumentError(f"tokens must be text or ids of shape (batch, pos), got {tokens!r}.")
    return (tokens if tokens.ndim == 2 else tokens[None]).to(model.device)
