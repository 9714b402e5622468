"""A layer of linear attention: projections, gates, the operator, a norm."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import normalize, silu

from pellucid.core import ArgumentError, NamedActivation
from pellucid.tptt._decoding import NORM_EPS, DecodedParts, decode_token
from pellucid.tptt._masks import find_valid_tokens
from pellucid.tptt._operator import LinearAttentionOp, check_state
from pellucid.tptt._pool import CausalAvgPool1d, Window
from pellucid.tptt._signals import Signal
from pellucid.tptt._states import LCache, StateStore, take_last

# How many tokens can be taken back; more than any draft of assisted generation has.
_UNDO = 64

GATE_GRANULARITIES = ("channel", "head")
PADDING_SIDES = ("left", "right")


class LinearAttention(nn.Module):
    """Multi-head linear attention with the delta rule, in place of softmax attention or beside it.

    Queries and keys go through SiLU and are brought to norm 1; a gate is the sigmoid of an average
    over the last tokens' keys or values, and has no weights of its own (arXiv 2506.17671). Tokens
    that a mask leaves out are left out altogether: the others are moved together, on whichever
    side, so that padding changes nothing.

    Args:
        hidden_dim: The width of the residual stream.
        num_heads: Heads of queries.
        head_dim: The width of a head; `hidden_dim // num_heads` when omitted.
        num_key_value_heads: Heads of keys and values; `num_heads` when omitted.
        num_key_value_groups: Query heads that share one; follows from the two, and is only checked.
        bias: Whether projections have one.
        dropout: The rate of dropout of the result; none when omitted.
        linear_precision: What the operator computes in, see `LinearAttentionOp`.
        padding_side: Kept for its readers; masks are understood on either side.
        shared_attn: Whether projections are given instead of made here.
        layer_idx: Under which index it remembers.
        operator_mode: The name of a recurrent mode.
        recurrent_config: The parts of a mode, in place of its name.
        linear_cache: Where it remembers, unless a call says otherwise.
        max_chunk_size: See `LinearAttentionOp`.
        bidirectional: Whether to add what the operator reads from the end to the start.
        pooling_config: `offsets` and `mode` of `CausalAvgPool1d`.
        compat: See `LinearAttentionOp`.
        gate_granularity: One gate for each "channel" or for each "head".
        backend: What computes many tokens at once, see `linear_attention`.

    Raises:
        ArgumentError: (a ValueError) If sizes do not go together, or a name is not known.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        head_dim: int | None = None,
        num_key_value_heads: int | None = None,
        num_key_value_groups: int | None = None,
        bias: bool = True,
        dropout: float | None = None,
        linear_precision: torch.dtype = torch.float32,
        padding_side: str = "right",
        shared_attn: bool = False,
        layer_idx: int = 0,
        operator_mode: str = "delta_rule",
        recurrent_config: Mapping[str, Any] | None = None,
        linear_cache: LCache | None = None,
        max_chunk_size: int = 64,
        bidirectional: bool = False,
        pooling_config: Mapping[str, Any] | None = None,
        *,
        compat: str | None = None,
        gate_granularity: str = "channel",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.head_dim = head_dim if head_dim is not None else hidden_dim // num_heads
        self.num_key_value_heads = num_key_value_heads or num_heads
        self.num_key_value_groups = num_heads // self.num_key_value_heads
        _check_heads(num_heads, self.num_key_value_heads, num_key_value_groups)
        _check_known("padding_side", padding_side, PADDING_SIDES)
        _check_known("gate_granularity", gate_granularity, GATE_GRANULARITIES)
        self.layer_idx = layer_idx
        self.padding_side = padding_side
        self.shared_attn = shared_attn
        self.bidirectional = bidirectional
        self.gate_granularity = gate_granularity
        self.linear_cache = linear_cache if linear_cache is not None else LCache()
        kv_dim = self.num_key_value_heads * self.head_dim
        if not shared_attn:
            self.q_proj = nn.Linear(hidden_dim, num_heads * self.head_dim, bias=bias)
            self.k_proj = nn.Linear(hidden_dim, kv_dim, bias=bias)
            self.v_proj = nn.Linear(hidden_dim, kv_dim, bias=bias)
            self.out_proj = nn.Linear(num_heads * self.head_dim, hidden_dim, bias=bias)
        self.dropout = nn.Dropout(dropout or 0.0)
        self.linear_operator = LinearAttentionOp(
            layer_idx,
            operator_mode,
            recurrent_config,
            max_chunk_size,
            self.linear_cache,
            linear_precision,
            compat=compat,
            backend=backend,
        )
        self.pool_g = CausalAvgPool1d(kv_dim, **(pooling_config or {}))
        self.gate, self.read = Signal(), Signal()
        # kept by itself: what a module holds as modules takes longer to find
        self._decoded = DecodedParts(
            operator=self.linear_operator,
            pool=self.pool_g,
            gate_granularity=gate_granularity,
            gates=self.gate,
            reads=self.read,
        )

    def forward(
        self,
        x: Sequence[Float[Tensor, "batch pos _"]] | Float[Tensor, "batch pos d_model"],
        attn_mask: Any = None,
        out_proj: nn.Module | None = None,
        *,
        use_cache: bool = False,
        linear_cache: StateStore | None = None,
        first: int | None = None,
    ) -> Float[Tensor, "batch pos _"]:
        """Return the layer's output for each token.

        Args:
            x: Hidden states; with `shared_attn` the queries, keys and values of all heads, flat.
            attn_mask: Which tokens count, see `find_valid_tokens`.
            out_proj: Applied to the merged heads; the layer's own, or none, when omitted.
            use_cache: Whether to go on from the tokens before, and to remember these.
            linear_cache: Where to remember, in place of the layer's own.
            first: The mask's column of the first token, see `find_valid_tokens`.

        Raises:
            ArgumentError: (a ValueError) If the layer is bidirectional and shall remember, or if
                what is remembered is of another shape.
        """
        q, k, v = self._project(x)
        heads, scale = self.read_heads(
            q, k, v, attn_mask, use_cache=use_cache, linear_cache=linear_cache, first=first
        )
        out = (heads * scale).to(q.dtype)
        if out_proj is None and not self.shared_attn:
            out_proj = self.out_proj
        out = out if out_proj is None else out_proj(out)
        return self.dropout(out) if self.training else out

    def read_heads(
        self,
        q: Float[Tensor, "batch pos _"],
        k: Float[Tensor, "batch pos d_model"],
        v: Float[Tensor, "batch pos d_model"],
        attn_mask: Any = None,
        *,
        use_cache: bool = False,
        linear_cache: StateStore | None = None,
        first: int | None = None,
    ) -> tuple[Float[Tensor, "batch pos _"], Float[Tensor, "batch pos 1"]]:
        """Return what the heads read, merged, and what brings it to a mean square of 1.

        Args:
            q: The queries of all heads, flat.
            k: The keys, likewise.
            v: The values, likewise.
            attn_mask: As for `forward`, like all that follow.
            use_cache: Whether to go on from the tokens before, and to remember these.
            linear_cache: Where to remember.
            first: The mask's column of the first token.
        """
        valid = None
        if attn_mask is not None:
            valid = find_valid_tokens(attn_mask, q.shape[1], first=first)
        store = (self.linear_cache if linear_cache is None else linear_cache) if use_cache else None
        if store is not None and self.bidirectional:
            raise ArgumentError(
                "attention in both directions has no state to go on from. Use use_cache=False."
            )
        heads, scale = self._attend(q, k, v, valid, store)
        if scale is not None:
            return heads, scale
        if self.read.is_watched:
            heads = self.read(heads)
        root = math.sqrt(heads.shape[-1])
        norm = vector_norm(heads, dim=-1, keepdim=True)
        return heads, root / torch.hypot(norm, norm.new_full((), root * math.sqrt(NORM_EPS)))

    def named_activations(self) -> Mapping[str, NamedActivation]:
        """Return what can be seen and changed on the way, by its name within a block.

        The positions of gates are those of the tokens that count, moved together.
        """
        width = "d_head" if self.gate_granularity == "channel" else "1"
        return {
            "linear_attn.hook_gate": NamedActivation(
                module=self.gate,
                shape=f"batch kv_head pos {width}",
                meaning="how strongly each token is written to the state",
            ),
            "linear_attn.hook_state": NamedActivation(
                module=self.linear_operator.state,
                shape="batch kv_head d_key d_value",
                meaning="the state after the last token; what goes on from there starts with it",
            ),
            "linear_attn.hook_out": NamedActivation(
                module=self.read,
                shape="batch pos feature",
                meaning="what the heads read from the state, side by side, before it is scaled",
            ),
        }

    def _project(self, x: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.shared_attn:
            if isinstance(x, Tensor) or len(x) != 3:
                raise ArgumentError("with shared_attn, give queries, keys and values: [q, k, v].")
            return x[0], x[1], x[2]
        hidden = x if isinstance(x, Tensor) else x[0]
        return self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, store: StateStore | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the merged heads of each token, and their scale if it is known already.

        Those of tokens that do not count are zero.
        """
        if store is None:
            return self._run_valid(q, k, v, valid, None), None
        entry = store[self.layer_idx]
        if entry is not None:
            decoded = decode_token(self._decoded, (q, k, v), valid, entry)
            if decoded is not None:
                heads, scale, kept = decoded
                store.replace(self.layer_idx, kept)
                return heads, scale
        self._catch_up(store)
        # Who watches sees all tokens at once.
        is_watched = self.gate.is_watched or self.linear_operator.state.is_watched
        if q.shape[1] <= _UNDO or is_watched:
            return self._run_undoable(q, k, v, valid, store), None
        # What comes last is kept apart, so that it can be taken back.
        early, late = slice(None, -_UNDO), slice(-_UNDO, None)
        parts = [
            (q[:, at], k[:, at], v[:, at], None if valid is None else valid[:, at])
            for at in (early, late)
        ]
        head = self._run_valid(*parts[0], store)
        return torch.cat((head, self._run_undoable(*parts[1], store)), dim=1), None

    def _catch_up(self, store: StateStore) -> None:
        pending = (store[self.layer_idx] or {}).get("pending")
        if pending is not None:
            k, v, valid = pending
            store.update(self.layer_idx, pending=None)
            # nobody reads from the state here, so that any queries will do
            self._run_valid(k.repeat(1, 1, self.num_key_value_groups), k, v, valid, store)

    def _run_undoable(
        self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, store: StateStore
    ) -> Tensor:
        names = ("before", "recent", "pending")
        entry = store[self.layer_idx] or {}
        before = {name: value for name, value in entry.items() if name not in names}
        out = self._run_valid(q, k, v, valid, store)
        recent = (k, v, None if valid is None else valid.expand(len(k), -1))
        store.update(self.layer_idx, before=before, recent=recent)
        return out

    def _run_valid(
        self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, store: StateStore | None
    ) -> Tensor:
        if valid is None:
            return self._run(q, k, v, None, store)
        valid = valid.expand(len(q), -1)
        lengths = valid.sum(dim=1)
        # Stable, so that tokens that count come first, in their order.
        order = torch.argsort((~valid).long(), dim=1, stable=True)
        ended = torch.arange(q.shape[1], device=q.device) >= lengths[:, None]

        def pack(x: Tensor) -> Tensor:
            return x.gather(1, order[..., None].expand_as(x)).masked_fill(ended[..., None], 0)

        out = self._run(pack(q), pack(k), pack(v), lengths, store)
        out = out.masked_fill(ended[..., None], 0)
        back = torch.argsort(order, dim=1)[..., None].expand_as(out)
        return out.gather(1, back)

    def _run(
        self,
        q: Float[Tensor, "batch pos _"],
        k: Float[Tensor, "batch pos d_model"],
        v: Float[Tensor, "batch pos d_model"],
        lengths: Int[Tensor, " batch"] | None,
        store: StateStore | None,
    ) -> Float[Tensor, "batch pos _"]:
        if store is not None:
            entry = store[self.layer_idx] or {}
            check_state(entry.get("recurrent_state"), self._split(q), self._split(k))
        gate = self.gate(self._make_gate(k, v, lengths, store))
        q, k, v = (self._split(x) for x in (q, k, v))
        q, k = (normalize(silu(x), dim=-1, eps=NORM_EPS) for x in (q, k))
        v = v / math.sqrt(self.head_dim)
        operate = self.linear_operator
        if store is not None:
            out = operate(q, k, v, gate, use_cache=True, linear_cache=store, lengths=lengths)
        else:
            out = operate(q, k, v, gate, lengths=lengths)
        if self.bidirectional:
            parts = (_reverse(x, lengths) for x in (q, k, v, gate))
            out = out + _reverse(operate(*parts, lengths=lengths, is_backwards=True), lengths)
        return out.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.head_dim)).transpose(1, 2)

    def _make_gate(
        self, k: Tensor, v: Tensor, lengths: Tensor | None, store: StateStore | None
    ) -> Tensor:
        kind = self.linear_operator.mode.gate_type
        sources = {"k": (k,), "v": (v,), "kv": (k, v)}[kind]
        windows = None if store is None else (store[self.layer_idx] or {}).get("windows")
        began = None if store is None else (store[self.layer_idx] or {}).get("began")
        gates: list[Tensor] = []
        kept: list[Window] = []
        for index, source in enumerate(sources):
            window = self.pool_g.begin(source[:, :1])
            if windows is not None:
                known = torch.cat((window[:, :0], *windows[index]), dim=1)
                # rows that have seen no token that counts begin here
                is_known = None if began is None else began[:, None, None]
                window = known if is_known is None else torch.where(is_known, known, window)
            pooled = self._split(self.pool_g(source, window))
            if self.gate_granularity == "head":
                pooled = pooled.mean(dim=-1, keepdim=True)
            gates.append(torch.sigmoid(pooled))
            if store is not None:
                last = take_last(window, source, self.pool_g.reach, lengths, dim=1)
                kept.append(last.split(1, dim=1) if self.pool_g.reach else ())
        if store is not None:
            # None where all rows have begun
            now = None
            if lengths is not None and began is not None:
                now = began | (lengths > 0)
            elif lengths is not None and windows is None:
                now = lengths > 0
            store.update(self.layer_idx, windows=tuple(kept), began=now)
        return gates[0] if len(gates) == 1 else gates[0] * gates[1]


def _reverse(
    x: Float[Tensor, "batch head pos d_head"], lengths: Int[Tensor, " batch"] | None
) -> Float[Tensor, "batch head pos d_head"]:
    """Turn the tokens that count round; the others stay at the end."""
    if lengths is None:
        return x.flip(2)
    place = torch.arange(x.shape[2], device=x.device)
    is_counted: Bool[Tensor, "batch pos"] = place < lengths[:, None]
    source = torch.where(is_counted, lengths[:, None] - 1 - place, place)
    return x.gather(2, source[:, None, :, None].expand_as(x))


def _check_heads(heads: int, kv_heads: int, groups: int | None) -> None:
    if heads % kv_heads or (groups is not None and groups != heads // kv_heads):
        raise ArgumentError(
            f"{heads} query heads cannot share {kv_heads} heads of keys and values in groups of "
            f"{groups if groups is not None else heads / kv_heads!r}."
        )


def _check_known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ArgumentError(f"{what} must be one of {', '.join(known)}, got {value!r}.")
