"""What many candidates have in common beyond the prefix: the first tokens of their inputs.

Candidates of greedy methods differ from one trigger in a token or two, and no token reaches the
ones before it. So one row is run for all of them, the one that most agree with, and candidates are
put into an order in which those that go a long way with it stand together: a batch begins where the
first of its rows leaves that row, after keys and values that are computed already.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from pellucid.core import TriggerSlot
from pellucid.hf._prefix import SharedPart, SharedPrefix
from pellucid.hf._prefix_views import record_cache, view_cache

# A batch must save so many times what it costs to run the common row first.
_WORTH = 4


class Arrangement(NamedTuple):
    """Distinct candidates, those that begin as the base row does for the longest first.

    Attributes:
        ids: Their token ids.
        sources: For each of the caller's candidates, which of these rows it is.
        base: The ids that most candidates have, position by position.
        agrees: Where candidates have the base row's ids, on the host; nowhere if nothing is to be
            shared.
    """

    ids: Int[Tensor, "n_candidates trigger_pos"]
    sources: Int64[Tensor, " _"]
    base: Int[Tensor, " trigger_pos"]
    agrees: Bool[Tensor, "n_candidates trigger_pos"]

    def take(self, rows: Sequence[int]) -> "Arrangement":
        """Return some of the distinct candidates, in ascending order."""
        return self._replace(ids=self.ids[list(rows)], agrees=self.agrees[list(rows)])


def arrange(ids: Int[Tensor, "n_candidates trigger_pos"]) -> Arrangement:
    """Put candidates into the order in which batches of them share most.

    The host looks at them once.
    """
    host = ids.cpu()
    distinct, rows = torch.unique(host, dim=0, return_inverse=True)
    base = distinct.mode(dim=0).values
    agrees = distinct == base
    order = agrees.cumprod(dim=1).sum(dim=1).argsort(descending=True, stable=True)
    return Arrangement(
        ids=distinct[order].to(ids.device),
        sources=_invert(order)[rows].to(ids.device),
        base=base.to(ids.device),
        agrees=agrees[order],
    )


def arrange_as_given(ids: Int[Tensor, "n_candidates trigger_pos"]) -> Arrangement:
    """Leave candidates as they are; nothing is shared."""
    return Arrangement(
        ids=ids,
        sources=torch.arange(len(ids), device=ids.device),
        base=ids[0],
        agrees=torch.zeros(ids.shape, dtype=torch.bool),
    )


class Line(NamedTuple):
    """Candidates in the order in which they go through one template.

    Attributes:
        ids: Their token ids.
        places: For each of the arranged candidates, where in the line it stands.
        lend: Says how a batch is to be invoked other than by itself.
    """

    ids: Int[Tensor, "n_candidates trigger_pos"]
    places: Int64[Tensor, " n_candidates"]
    lend: Callable[[slice], Mapping[str, Any]]


def line_up_as_arranged(arranged: Arrangement) -> Line:
    """Leave candidates in their order; they share nothing."""
    places = torch.arange(len(arranged.ids), device=arranged.ids.device)
    return Line(arranged.ids, places, lambda rows: {})


def line_up(
    arranged: Arrangement,
    slots: Sequence[TriggerSlot],
    make_common_row: Callable[[int], "CommonRow"],
) -> Line:
    """Put candidates into the order in which they share most of one template.

    What a candidate shares ends where its input, the template filled in, first has another token
    than that of the base row. With several parts, that depends on which of them stands first.

    Args:
        arranged: The candidates.
        slots: The places of the trigger in the template.
        make_common_row: Makes the base row's input, up to a position.
    """
    first: dict[int, int] = {}
    for positions, columns in slots:
        for i, column in enumerate(range(columns.start, columns.stop)):
            first.setdefault(column, positions.start + i)
    columns = sorted(first, key=first.__getitem__)
    agrees = arranged.agrees[:, columns].cumprod(dim=1).sum(dim=1)
    # One token at the least is left to compute.
    starts = torch.tensor([first[c] for c in columns])[agrees.clamp(max=len(columns) - 1)]
    starts, order = starts.sort(descending=True, stable=True)
    row, n_shared = make_common_row(first[columns[-1]]), starts.tolist()

    def lend(rows: slice) -> Mapping[str, Any]:
        n = n_shared[rows.stop - 1]
        n_saved = (n - row.n_before) * (rows.stop - rows.start)
        if n == row.n_before or n_saved < _WORTH * row.n_tokens:
            return {}
        return {"input_prefix_cache_kwargs": {"prefix": Beginning(row, n)}}

    device = arranged.ids.device
    return Line(arranged.ids[order.to(device)], _invert(order).to(device), lend)


def _invert(order: Int64[Tensor, " _"]) -> Int64[Tensor, " _"]:
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return places


class CommonRow:
    """What stands before a trigger, and as much of the trigger as can be shared.

    It is run once, when it is first needed. Where nothing stands before the trigger, the first
    token of the row is taken for the prefix.

    Args:
        prefix: What stands before the trigger.
        ids: The row, the prefix included.
        forward: Calls the model, see `Forward`.
        count_tokens: Is told of each pass how many tokens it took.
    """

    def __init__(
        self,
        prefix: SharedPrefix,
        ids: Int[Tensor, " pos"],
        forward: Callable[..., Any],
        *,
        count_tokens: Callable[[int], None],
    ) -> None:
        self.n_before = prefix.n_tokens or min(1, len(ids))
        self.n_tokens = len(ids) - self.n_before
        self._prefix = prefix if prefix.n_tokens else prefix.replace_ids(ids[:1])
        self._rest = ids[self.n_before :]
        self._forward = forward
        self._count_tokens = count_tokens
        self._key: tuple[int, bool] | None = None
        self._whole: SharedPart | None = None

    def share(self, *, first_row: int, hidden_states: bool) -> SharedPart | None:
        """Return the row's cache, logits and hidden states.

        None if the prefix cannot be shared.
        """
        if self._key != (first_row, hidden_states):
            self._key = (first_row, hidden_states)
            self._whole = self._run(first_row, hidden_states)
        return self._whole

    def _run(self, first_row: int, hidden_states: bool) -> SharedPart | None:
        part = self._prefix.share(
            1, first_row=first_row, hidden_states=hidden_states, attentions=False
        )
        if part is None:
            return None
        # One row of logits at the least, even if none is wanted.
        start = min(max(first_row - part.n_tokens, 0), self.n_tokens - 1)
        result = self._forward(
            self._rest[None],
            None,
            rows=slice(start, self.n_tokens),
            past=record_cache(part.cache),
            n_past=part.n_tokens,
            keep_cache=True,
            output_hidden_states=hidden_states,
        )
        self._count_tokens(self.n_tokens)
        layers = zip(part.hidden_states or (), result.hidden_states or (), strict=True)
        return SharedPart(
            cache=result.past_key_values,
            n_tokens=part.n_tokens + self.n_tokens,
            logits=torch.cat([part.logits, result.logits], dim=1),
            hidden_states=tuple(torch.cat(pair, dim=1) for pair in layers) or None,
        )


class Beginning:
    """The first tokens of a common row, lent to candidates whose inputs all begin so.

    Args:
        row: The row.
        n_tokens: How many of its tokens, the prefix included.
    """

    def __init__(self, row: CommonRow, n_tokens: int) -> None:
        self._row = row
        self._n_dropped = row.n_before + row.n_tokens - n_tokens
        self.n_tokens = n_tokens

    def share(
        self, batch: int, *, first_row: int, hidden_states: bool, attentions: bool
    ) -> SharedPart | None:
        """Return what a batch needs, as `SharedPrefix.share` does."""
        if attentions:
            return None
        whole = self._row.share(first_row=first_row, hidden_states=hidden_states)
        if whole is None:
            return None
        return SharedPart(
            cache=view_cache(whole.cache, batch, n_dropped=self._n_dropped),
            n_tokens=self.n_tokens,
            logits=self._cut(whole.logits),
            hidden_states=whole.hidden_states and tuple(map(self._cut, whole.hidden_states)),
        )

    def _cut(self, states: Tensor) -> Tensor:
        return states[:, : max(states.shape[1] - self._n_dropped, 0)]
