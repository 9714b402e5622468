"""Causal language models, read as networks that fill masks."""

import inspect
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from pellucid.families.dream.types_dream import KeyValues
from pellucid.xlm.contracts import Model
from pellucid.xlm.modules import positions_of


class DreamModel(Model):
    """A causal language model whose tokens all see each other.

    The backbone is called as those of transformers are, `backbone(input_ids=, attention_mask=,
    position_ids=, past_key_values=, use_cache=)`, and returns an object with `logits` and
    `past_key_values`; no module of transformers is needed for that. Its mask has four axes, (batch,
    1, query, key), is added to attention's scores, and is taken as it is: so the order of tokens
    hides nothing. If it takes `logits_to_keep`, only the columns that are asked for are computed.

    A model that was trained to say the next token, and then to fill masks, still answers one
    position early: the logits of a token stand where the token before it is (Ye et al. 2025,
    arXiv:2508.15487).

    Args:
        backbone: The language model.
        is_shifted: Whether the logits of a position are read from the token before it. A row's
            first position then has none, and gets those of its own.
    """

    def __init__(self, backbone: nn.Module, *, is_shifted: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.is_shifted = is_shifted
        self._picks_columns = "logits_to_keep" in inspect.signature(backbone.forward).parameters

    def forward(
        self,
        x_t: Int64[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "..."] | Int64[Tensor, "..."] | None = None,
        positions: Int64[Tensor, "batch pos"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "*shape d_vocab"]:
        """Compute logits of the token at each position.

        Args:
            x_t: Token ids.
            attention_mask: (batch, pos), False on what is hidden; or (batch, query_pos, key_pos);
                nothing is hidden if None.
            positions: Where tokens stand; counted over what is not hidden if None.
            where: The positions whose logits are wanted; all if None.

        Returns:
            (batch, pos, d_vocab), or (picked_pos, d_vocab) if `where` is given.
        """
        shown = torch.ones_like(x_t) if attention_mask is None else attention_mask
        if positions is None:
            places = torch.arange(x_t.shape[1], device=x_t.device).expand_as(x_t)
            positions = positions_of(shown).long() if shown.ndim == 2 else places
        pairs = shown.bool()
        if pairs.ndim == 2:
            pairs = pairs[:, None].expand(-1, x_t.shape[1], -1)
        wanted = torch.ones_like(x_t, dtype=torch.bool) if where is None else where
        logits, _ = self._run(x_t, pairs, positions, where=wanted, cache=None, use_cache=False)
        return logits.reshape(*x_t.shape, -1) if where is None else logits

    def extend(
        self,
        x_t: Int64[Tensor, "batch query_pos"],
        attention_mask: Bool[Tensor, "batch query_pos key_pos"],
        positions: Int64[Tensor, "batch query_pos"],
        *,
        where: Bool[Tensor, "batch query_pos"],
        cache: KeyValues | None,
    ) -> tuple[Float[Tensor, "picked_pos d_vocab"], KeyValues]:
        """Go on from tokens that were read; see `CachingNetwork`.

        Args:
            x_t: The tokens after those that the cache holds.
            attention_mask: Which tokens see which, of those held and of these.
            positions: Where these stand.
            where: The positions whose logits are wanted.
            cache: The state before; None at the beginning. It is used up.
        """
        return self._run(x_t, attention_mask, positions, where=where, cache=cache, use_cache=True)

    def _run(
        self,
        x_t: Int64[Tensor, "batch query_pos"],
        pairs: Bool[Tensor, "batch query_pos key_pos"],
        positions: Int64[Tensor, "batch query_pos"],
        *,
        where: Bool[Tensor, "batch query_pos"],
        cache: KeyValues | None,
        use_cache: bool,
    ) -> tuple[Float[Tensor, "picked_pos d_vocab"], Any]:
        rows, columns = where.nonzero(as_tuple=True)
        if self.is_shifted:
            columns = (columns - 1).clamp(min=0)
        given: dict[str, Any] = {}
        if self._picks_columns:
            given["logits_to_keep"], columns = columns.unique(return_inverse=True)
        output = self.backbone(
            input_ids=x_t,
            attention_mask=self._scores(pairs),
            position_ids=positions,
            past_key_values=cache,
            use_cache=use_cache,
            **given,
        )
        return output.logits[rows, columns], output.past_key_values

    def _scores(
        self, pairs: Bool[Tensor, "batch query_pos key_pos"]
    ) -> Float[Tensor, "batch 1 query_pos key_pos"]:
        """Return what is added to attention's scores."""
        dtype = next(self.backbone.parameters()).dtype
        scores = torch.zeros(pairs.shape, dtype=dtype, device=pairs.device)
        # Infinity would make rows that see nothing, such as padding, not a number.
        return scores.masked_fill(~pairs, torch.finfo(dtype).min)[:, None]


def shift_logits(logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch pos d_vocab"]:
    """Return the logits that stand one position early where they belong: a `logits_hook`.

    The first position has none before it and keeps its own.
    """
    return torch.cat((logits[:, :1], logits[:, :-1]), dim=1)
