"""What many candidates have in common beyond the prefix: the first tokens of the trigger.

Candidates of greedy methods differ from one trigger in a token or two, and no token reaches the
ones before it. So one row is run for all of them, the one that most agree with, and candidates are
put into an order in which those that go a long way with it stand together: a batch begins where the
first of its rows leaves that row, after keys and values that are computed already.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, Int64
from torch import Tensor

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
        n_common: With how many tokens of the base row each of them begins; fewer than all.
    """

    ids: Int[Tensor, "n_candidates trigger_pos"]
    sources: Int64[Tensor, " _"]
    base: Int[Tensor, " trigger_pos"]
    n_common: Sequence[int]

    def take(self, rows: Sequence[int]) -> "Arrangement":
        """Return some of the distinct candidates, in ascending order."""
        return self._replace(ids=self.ids[list(rows)], n_common=[self.n_common[i] for i in rows])

    def count_common(self, rows: slice) -> int:
        """Return how many tokens of the base row a batch can skip, 0 if it is not worth it."""
        n = self.n_common[rows.stop - 1]
        return n if n * (rows.stop - rows.start) >= _WORTH * len(self.base) else 0


def arrange(ids: Int[Tensor, "n_candidates trigger_pos"]) -> Arrangement:
    """Put candidates into the order in which batches of them share most.

    The host looks at them once.
    """
    host = ids.cpu()
    distinct, rows = torch.unique(host, dim=0, return_inverse=True)
    base = distinct.mode(dim=0).values
    # One token at least is left to compute.
    n_common = (distinct == base).cumprod(dim=1).sum(dim=1).clamp(max=len(base) - 1)
    n_common, order = n_common.sort(descending=True, stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return Arrangement(
        ids=distinct[order].to(ids.device),
        sources=places[rows].to(ids.device),
        base=base.to(ids.device),
        n_common=n_common.tolist(),
    )


def arrange_as_given(ids: Int[Tensor, "n_candidates trigger_pos"]) -> Arrangement:
    """Leave candidates as they are; nothing is shared."""
    order = torch.arange(len(ids), device=ids.device)
    return Arrangement(ids=ids, sources=order, base=ids[0], n_common=[0] * len(ids))


class CommonRow:
    """A trigger after a prefix, run once when it is first needed.

    Args:
        prefix: What stands before the trigger.
        trigger_ids: The trigger.
        forward: Calls the model, see `Forward`.
        count_tokens: Is told of each pass how many tokens it took.
    """

    def __init__(
        self,
        prefix: SharedPrefix,
        trigger_ids: Int[Tensor, " trigger_pos"],
        forward: Callable[..., Any],
        *,
        count_tokens: Callable[[int], None],
    ) -> None:
        self.prefix = prefix
        self.n_trigger = len(trigger_ids)
        self._trigger_ids = trigger_ids
        self._forward = forward
        self._count_tokens = count_tokens
        self._key: tuple[int, bool] | None = None
        self._whole: SharedPart | None = None

    def share(self, *, first_row: int, hidden_states: bool) -> SharedPart | None:
        """Return the cache, logits and hidden states of prefix and trigger, for a single row.

        None if the prefix cannot be shared.
        """
        if self._key != (first_row, hidden_states):
            self._key = (first_row, hidden_states)
            self._whole = self._run(first_row, hidden_states)
        return self._whole

    def _run(self, first_row: int, hidden_states: bool) -> SharedPart | None:
        part = self.prefix.share(
            1, first_row=first_row, hidden_states=hidden_states, attentions=False
        )
        if part is None:
            return None
        # One row of logits at the least, even if none is wanted.
        start = min(max(first_row - part.n_tokens, 0), self.n_trigger - 1)
        result = self._forward(
            self._trigger_ids[None],
            None,
            rows=slice(start, self.n_trigger),
            past=record_cache(part.cache),
            n_past=part.n_tokens,
            keep_cache=True,
            output_hidden_states=hidden_states,
        )
        self._count_tokens(self.n_trigger)
        layers = zip(part.hidden_states or (), result.hidden_states or (), strict=True)
        return SharedPart(
            cache=result.past_key_values,
            n_tokens=part.n_tokens + self.n_trigger,
            logits=torch.cat([part.logits, result.logits], dim=1),
            hidden_states=tuple(torch.cat(pair, dim=1) for pair in layers) or None,
        )


class Beginning:
    """A prefix and the first tokens of a trigger, lent to candidates that all begin so.

    Args:
        row: The prefix and the whole trigger.
        n_trigger: How many of the trigger's tokens are shared.
    """

    def __init__(self, row: CommonRow, n_trigger: int) -> None:
        self._row = row
        self._n_dropped = row.n_trigger - n_trigger
        self.n_tokens = row.prefix.n_tokens + n_trigger

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
