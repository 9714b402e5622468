"""The loop that fills texts: read, draw, write, until nothing is open."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.xlm.modules import TokenConstraints, positions_of
from pellucid.xlm.sampling._opening import Opening
from pellucid.xlm.sampling._order import OrderPolicy
from pellucid.xlm.sampling._remasking import Remasking
from pellucid.xlm.sampling._stops import StopRule
from pellucid.xlm.sampling._streams import RowStreams, Stream
from pellucid.xlm.sampling._texts import Filled, Reading, Texts
from pellucid.xlm.sampling._tokens import TokenPolicy

Read = Callable[[Reading], Float[Tensor, "picked_pos d_vocab"]]
"""How a family reads: the logits of the positions in `where`, in reading order."""


def fill(
    texts: Texts,
    read: Read,
    *,
    order: OrderPolicy,
    tokens: TokenPolicy,
    constraints: TokenConstraints,
    streams: RowStreams,
    max_steps: int,
    stops: Sequence[StopRule] = (),
    remasking: Remasking | None = None,
) -> Filled:
    """Fill every open position.

    A step reads the rows that need it, and no others: those that have open positions, or, where
    the order does not depend on what the network says, those in which something is filled now.
    The last step fills all that is left, so no row is read more often than `max_steps`. What was
    not open never changes.

    Args:
        texts: What to fill; not changed.
        read: Called once a step, without gradients if the caller turned them off.
        order: Which positions are filled in a step.
        tokens: What is written there.
        constraints: What may be written; where, follows from `texts`.
        streams: The random numbers of the rows.
        max_steps: The most steps.
        stops: Where texts end early: where the first of them says; none if empty.
        remasking: Which tokens are masked again; none if None. Not with stop rules: a text
            whose end may be taken back has none.

    Returns:
        The texts without gaps, and how often each row was read.

    Raises:
        ArgumentError: There are no steps, or not as many streams as rows, or remasking is to take
            back what stop rules go by.
    """
    if max_steps < 1:
        raise ArgumentError(f"max_steps is {max_steps!r}; give a positive number")
    if len(streams.rows) != len(texts.ids):
        message = f"there are streams for {len(streams.rows)} rows, and {len(texts.ids)} texts"
        raise ArgumentError(message)
    if stops and remasking is not None:
        message = f"{stops!r} and {remasking!r} exclude each other; give one of them"
        raise ArgumentError(message)
    filling = _Filling(
        texts=texts,
        constraints=constraints,
        index=positions_of(texts.shown),
        streams=streams,
        stops=stops,
        remasking=remasking,
    )
    for step in range(max_steps):
        if not len(filling.active):
            break
        filling.advance(read, order, tokens, step=step, steps_left=max_steps - step)
    return Filled(filling.ids, filling.steps.tolist(), filling.seconds)


@dataclass
class _Filling:
    """Texts in the middle of being filled.

    Attributes:
        index: The place of each position among those shown, by which numbers are drawn.
        ids: Token ids as they are now.
        is_open: The gaps that are left.
        chances: The probability of each token when it was written, if remasking asks.
        forced: Rows of which all gaps are filled in the next step.
        n_remasked: How many tokens of each row were masked again.
        active: The rows that have gaps left, ascending.
        steps: How often each row was read.
        seconds: Time until each row was finished.
    """

    texts: Texts
    constraints: TokenConstraints
    index: Int64[Tensor, "batch pos"]
    streams: RowStreams
    stops: Sequence[StopRule]
    remasking: Remasking | None
    ids: Int64[Tensor, "batch pos"] = field(init=False)
    is_open: Bool[Tensor, "batch pos"] = field(init=False)
    chances: Float64[Tensor, "batch pos"] = field(init=False)
    forced: Bool[Tensor, " batch"] = field(init=False)
    n_remasked: Int64[Tensor, " batch"] = field(init=False)
    active: Int64[Tensor, " kept"] = field(init=False)
    steps: Int64[Tensor, " batch"] = field(init=False)
    seconds: list[float] = field(init=False)
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        n_rows = len(self.texts.ids)
        self.ids = self.texts.ids.clone()
        self.is_open = self.texts.is_open
        self.chances = torch.ones(self.ids.shape, dtype=torch.float64, device=self.ids.device)
        self.forced = torch.zeros(n_rows, dtype=torch.bool, device=self.ids.device)
        self.n_remasked = torch.zeros(n_rows, dtype=torch.long, device=self.ids.device)
        self.active = self.is_open.any(dim=1).nonzero()[:, 0]
        self.steps = torch.zeros(n_rows, dtype=torch.long)
        self.seconds = [0.0] * n_rows

    def advance(
        self, read: Read, order: OrderPolicy, tokens: TokenPolicy, *, step: int, steps_left: int
    ) -> None:
        """Make a step."""
        rows = self.active
        opening = self._opening(rows, step, steps_left)
        all_of = torch.full_like(self.forced[rows], steps_left == 1) | self.forced[rows]
        everything = opening.is_open & all_of[:, None]
        looked_at = order.looks_at(opening)
        if looked_at is None:
            where = everything | (order.choose(opening, None, where=None) & opening.is_open)
            if not bool(where.any()):
                return
            chosen, logits = where, self._read(read, rows, where, opening)
        else:
            where = everything | (looked_at & opening.is_open)
            logits = self._read(read, rows, where, opening)
            chosen = everything | (order.choose(opening, logits, where=where) & where)
        self._write(rows, self._draw(logits, where, opening, tokens), chosen)
        if self.stops:
            self._end(rows)
        if self.remasking is not None and steps_left > 1:
            self._mask_again(rows, chosen, self.remasking)
        self._retire(rows)

    def _opening(self, rows: Int64[Tensor, " kept"], step: int, steps_left: int) -> Opening:
        return Opening(
            is_open=self.is_open[rows],
            writable=self.texts.is_open[rows],
            index=self.index[rows],
            streams=self.streams.keep(rows),
            step=step,
            steps_left=steps_left,
        )

    def _read(
        self,
        read: Read,
        rows: Int64[Tensor, " kept"],
        where: Bool[Tensor, "kept pos"],
        opening: Opening,
    ) -> Float[Tensor, "picked_pos d_vocab"]:
        """Read the rows in which something is wanted."""
        is_read = where.any(dim=1)
        if not bool(is_read.all()):
            rows, where = rows[is_read], where[is_read]
        self.steps[rows.cpu()] += 1
        logits = read(
            Reading(
                ids=self.ids[rows],
                shown=self.texts.shown[rows],
                positions=self.texts.positions[rows],
                where=where,
                rows=rows,
                step=opening.step,
                steps_left=opening.steps_left,
            )
        )
        return self.constraints.restrict(logits.float())

    def _draw(
        self,
        logits: Float[Tensor, "picked_pos d_vocab"],
        where: Bool[Tensor, "kept pos"],
        opening: Opening,
        tokens: TokenPolicy,
    ) -> "_Drawn":
        uniforms = None if tokens.temperature == 0 else opening.uniforms(Stream.TOKEN)[where]
        found = tokens.draw(logits, uniforms)
        # What stands at other positions is never looked at.
        drawn = torch.zeros_like(opening.index).masked_scatter(where, found)
        chances = None
        if self.remasking is not None:
            chance = logits.softmax(dim=-1).gather(1, found[:, None])[:, 0].double()
            chances = torch.ones_like(self.chances[: len(drawn)]).masked_scatter(where, chance)
        return _Drawn(drawn, chances)

    def _write(
        self, rows: Int64[Tensor, " kept"], drawn: "_Drawn", chosen: Bool[Tensor, "kept pos"]
    ) -> None:
        own = self.constraints.with_frozen(~self.texts.is_open[rows])
        written = own.write(self.ids[rows], drawn.tokens, chosen)
        self.ids = self.ids.index_copy(0, rows, written)
        self.is_open = self.is_open.index_copy(0, rows, self.is_open[rows] & ~chosen)
        if drawn.chances is not None:
            chances = torch.where(chosen, drawn.chances, self.chances[rows])
            self.chances = self.chances.index_copy(0, rows, chances)

    def _end(self, rows: Int64[Tensor, " kept"]) -> None:
        """Put padding after the end of texts that have one."""
        ids, writable = self.ids[rows], self.texts.is_open[rows]
        ends = torch.stack([stop.ends(ids, writable) for stop in self.stops])
        end = ends.amin(dim=0)
        columns = torch.arange(ids.shape[1], device=ids.device)
        is_after = (columns >= end[:, None]) & writable
        is_open = self.is_open[rows] & ~is_after
        most = torch.tensor([stop.force_fill_max for stop in self.stops], device=ids.device)
        is_forced = (ends == end) & (is_open.sum(dim=1) <= most[:, None])
        forced = is_forced.any(dim=0) & (end < ids.shape[1])
        self.ids = self.ids.index_copy(0, rows, ids.masked_fill(is_after, self.texts.pad_id))
        self.is_open = self.is_open.index_copy(0, rows, is_open)
        self.forced = self.forced.index_copy(0, rows, forced)

    def _mask_again(
        self, rows: Int64[Tensor, " kept"], chosen: Bool[Tensor, "kept pos"], remasking: Remasking
    ) -> None:
        is_written = self.texts.is_open[rows] & ~self.is_open[rows] & ~chosen
        n_before = self.n_remasked[rows]
        again = remasking.choose(self.chances[rows], is_written, n_before)
        ids = self.ids[rows].masked_fill(again, self.texts.mask_id)
        self.ids = self.ids.index_copy(0, rows, ids)
        self.is_open = self.is_open.index_copy(0, rows, self.is_open[rows] | again)
        self.n_remasked = self.n_remasked.index_copy(0, rows, n_before + again.sum(dim=1))

    def _retire(self, rows: Int64[Tensor, " kept"]) -> None:
        """Leave the rows out from now on that have no gaps left."""
        seconds = time.perf_counter() - self.began
        for row in rows.tolist():
            self.seconds[row] = seconds
        self.active = rows[self.is_open[rows].any(dim=1)]


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What was drawn for each position, and the probability it had, if anybody asks."""

    tokens: Int64[Tensor, "kept pos"]
    chances: Float64[Tensor, "kept pos"] | None
