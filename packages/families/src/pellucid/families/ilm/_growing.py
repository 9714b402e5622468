"""Texts that grow by insertion, without a token ever being moved."""

import time
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.families.ilm._choice import Insertions
from pellucid.xlm.modules import TokenConstraints


@dataclass(eq=False, kw_only=True)
class Growing:
    """Tokens in the order in which they came, and where each of them stands.

    A new token is appended; what is inserted before others changes their positions only. Positions
    are a permutation of the columns, in which the columns that are not used yet stand where they
    are: so the text is had by scattering the tokens to their positions.

    Attributes:
        tokens: Of each row, in the order in which they came; padding in columns not used yet.
        positions: Where they stand in the text.
        is_slot: After which of them something may be inserted.
        lengths: How many tokens each row has.
        limits: How many it may have.
        came: The step in which each token came; -1 for those that were given.
        constraints: What may be inserted.
        active: The rows that go on, ascending.
        steps: Network evaluations of each row.
        seconds: Time until each row was finished.
    """

    tokens: Int64[Tensor, "batch pos"]
    positions: Int64[Tensor, "batch pos"]
    is_slot: Bool[Tensor, "batch pos"]
    lengths: Int64[Tensor, " batch"]
    limits: Int64[Tensor, " batch"]
    came: Int64[Tensor, "batch pos"]
    constraints: TokenConstraints
    active: Int64[Tensor, " kept"]
    steps: list[int]
    seconds: list[float]
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(
        cls,
        ids: Int64[Tensor, "batch pos"],
        shown: Bool[Tensor, "batch pos"],
        slots: Bool[Tensor, "batch pos"],
        limits: Int64[Tensor, " batch"],
        *,
        constraints: TokenConstraints,
        pad: int,
    ) -> "Growing":
        """Begin with what is given.

        Args:
            ids: Token ids, with padding on either side.
            shown: False on padding.
            slots: After which tokens something may be inserted.
            limits: How many tokens each row may have.
            constraints: What may be inserted.
            pad: The id of padding.
        """
        n_rows = len(ids)
        order = (~shown).long().argsort(dim=1, stable=True)
        lengths = shown.sum(dim=1)
        width = max(int(limits.max()), int(lengths.max()))
        columns = torch.arange(width, device=ids.device).expand(n_rows, -1)
        n_given = min(width, ids.shape[1])
        is_given = columns[:, :n_given] < lengths[:, None]
        tokens = torch.full_like(columns, pad)
        tokens[:, :n_given] = ids.gather(1, order)[:, :n_given].where(is_given, pad)
        is_slot = torch.zeros_like(columns, dtype=torch.bool)
        is_slot[:, :n_given] = slots.gather(1, order)[:, :n_given] & is_given
        return cls(
            tokens=tokens,
            positions=columns.clone(),
            is_slot=is_slot,
            lengths=lengths,
            limits=limits,
            came=torch.full_like(columns, -1),
            constraints=constraints,
            active=(lengths < limits).nonzero()[:, 0],
            steps=[0] * n_rows,
            seconds=[0.0] * n_rows,
        )

    def read(
        self, rows: Int64[Tensor, " kept"]
    ) -> tuple[Int64[Tensor, "kept pos"], Bool[Tensor, "kept pos"], Bool[Tensor, "kept pos"]]:
        """Return rows as texts: token ids, where they are no padding, and where there are slots."""
        lengths, positions = self.lengths[rows], self.positions[rows]
        width = int(lengths.max()) if len(rows) else 0
        ids = torch.empty_like(positions).scatter_(1, positions, self.tokens[rows])[:, :width]
        slots = torch.empty_like(self.is_slot[rows]).scatter_(1, positions, self.is_slot[rows])
        shown = torch.arange(width, device=ids.device) < lengths[:, None]
        return ids, shown, slots[:, :width]

    def insert_all(
        self, rows: Int64[Tensor, " kept"], insertions: Insertions, *, step: int
    ) -> None:
        """Insert what was chosen for some rows."""
        columns = (insertions.places, insertions.tokens, insertions.is_made)
        for at, tokens, is_made in zip(*(held.unbind(dim=1) for held in columns), strict=True):
            self._insert(rows[is_made], at[is_made], tokens[is_made], step)

    def _insert(
        self,
        rows: Int64[Tensor, " kept"],
        at: Int64[Tensor, " kept"],
        tokens: Int64[Tensor, " kept"],
        step: int,
    ) -> None:
        """Insert a token in each of some rows, after the tokens at some positions."""
        ends = self.lengths[rows]
        free = self.tokens[rows, ends][:, None]
        everywhere = torch.ones_like(free, dtype=torch.bool)
        written = self.constraints.write(free, tokens[:, None], everywhere)[:, 0]
        positions = self.positions[rows]
        columns = torch.arange(positions.shape[1], device=positions.device)
        is_after = (positions > at[:, None]) & (columns < ends[:, None])
        self.positions[rows] = positions + is_after
        self.positions[rows, ends] = at + 1
        self.tokens[rows, ends] = written
        self.is_slot[rows, ends] = True
        self.came[rows, ends] = step
        self.lengths[rows] = ends + 1

    def count_step(self, is_done: Bool[Tensor, " kept"]) -> None:
        """Count an evaluation of the active rows; those that are done, or full, leave."""
        seconds = time.perf_counter() - self.began
        for row in self.active.tolist():
            self.steps[row] += 1
            self.seconds[row] = seconds
        is_full = self.lengths[self.active] >= self.limits[self.active]
        self.active = self.active[~(is_done | is_full)]

    def room(self) -> Int64[Tensor, " kept"]:
        """Return how many tokens the active rows may still grow by."""
        return (self.limits - self.lengths)[self.active]

    def history(self, row: int) -> list[tuple[list[int], int]]:
        """Return the text of a row after each insertion, and the step that made it."""
        length = int(self.lengths[row])
        tokens, places = self.tokens[row, :length], self.positions[row, :length]
        came = self.came[row, :length].tolist()
        n_given = came.count(-1)
        # The first tokens of the buffer, ordered by where they stand at the end, are a text too.
        return [
            (tokens[places[:end].argsort()].tolist(), came[end - 1])
            for end in range(n_given + 1, length + 1)
        ]
