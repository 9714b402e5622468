"""The operator of linear attention as a module that remembers."""

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pellucid.core import ArgumentError
from pellucid.tptt._kernels import check_backend, takes_kernels
from pellucid.tptt._modes import RecurrentMode, resolve_mode
from pellucid.tptt._published import published_operator
from pellucid.tptt._recurrence import linear_attention
from pellucid.tptt._signals import Signal
from pellucid.tptt._states import LCache, StateStore, take_last

GATE_RANGE = (1e-6, 1 - 1e-6)
COMPATS = (None, "upstream")

_Four = tuple[Tensor, Tensor, Tensor, Tensor]


class LinearAttentionOp(nn.Module):
    """The delta rule, or a product of several, with what it remembers of the tokens before.

    Args:
        layer_idx: Under which index it remembers.
        operator_mode: The name of a recurrent mode.
        recurrent_config: The parts of a mode, in place of its name.
        max_chunk_size: The most tokens worked on together; only modes with gelu depend on it.
        linear_cache: Where it remembers; a place of its own when omitted.
        linear_precision: The dtype of its results. Half precision is computed in float32.
        compat: "upstream" for the operator of published adapters, see `published_operator`.
        backend: What computes many tokens at once, see `linear_attention`.

    Attributes:
        use_checkpoint: Whether to compute again in the backward pass, to save memory.

    Raises:
        ModeError: (a ValueError) If there is no such mode.
        ArgumentError: (a ValueError) If another argument is not of the kind described.
        MissingDependencyError: (an ImportError) If the backend is not installed.
    """

    def __init__(
        self,
        layer_idx: int,
        operator_mode: str = "delta_rule",
        recurrent_config: Mapping[str, Any] | None = None,
        max_chunk_size: int = 64,
        linear_cache: LCache | None = None,
        linear_precision: torch.dtype = torch.float32,
        *,
        compat: str | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if max_chunk_size < 1:
            raise ArgumentError(f"max_chunk_size must be 1 or more, got {max_chunk_size!r}.")
        if not linear_precision.is_floating_point:
            raise ArgumentError(f"linear_precision must be a float type, got {linear_precision!r}.")
        if compat not in COMPATS:
            raise ArgumentError(f"compat must be None or 'upstream', got {compat!r}.")
        self.layer_idx = layer_idx
        self.mode = resolve_mode(operator_mode, recurrent_config)
        self.operator_mode = operator_mode
        self.max_chunk_size = max_chunk_size
        self.linear_cache = linear_cache if linear_cache is not None else LCache()
        self.linear_precision = linear_precision
        self.compat = compat
        # One update for each token and nothing else.
        self.is_plain = self.mode.order == 1 and self.mode.linear and compat is None
        check_backend(backend, self.mode, compat)
        self.backend = backend
        self.use_checkpoint = False
        self.state = Signal()

    def forward(
        self,
        q: Float[Tensor, "batch head pos d_head"],
        k: Float[Tensor, "batch kv_head pos d_head"],
        v: Float[Tensor, "batch kv_head pos d_head"],
        beta: tuple[Float[Tensor, "batch kv_head pos #d_head"], ...]
        | Float[Tensor, "batch kv_head pos #d_head"],
        *,
        use_cache: bool = False,
        linear_cache: StateStore | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
        is_backwards: bool = False,
    ) -> Float[Tensor, "batch head pos d_head"]:
        """Return what each token reads from the state after its updates.

        Args:
            q: The queries; heads share keys and values in groups.
            k: The keys, of norm 1 at most.
            v: The values.
            beta: The gates made of keys and of values, or the one gate to be used as it is.
            use_cache: Whether to go on from the tokens before, and to remember these.
            linear_cache: Where to remember, in place of the module's own.
            lengths: How many tokens of each row count, from its start.
            is_backwards: Whether these tokens are read from the end to the start beside another
                call, the state after which is the one to be seen.

        Raises:
            ArgumentError: (a ValueError) If what is remembered is of another shape.
        """
        gate = beta if isinstance(beta, Tensor) else self.compute_gate(beta)
        store = self.linear_cache if linear_cache is None else linear_cache
        entry = (store[self.layer_idx] if use_cache else None) or {}
        state, buffers = entry.get("recurrent_state"), entry.get("qkv")
        check_state(state, q, k)
        is_fused = takes_kernels(
            self.backend,
            self.mode,
            gate,
            width=k.shape[-1],
            dtype=self.linear_precision,
            compat=self.compat,
        )
        # rounded to the precision asked for, then computed in what has a triangular solver
        least = self.linear_precision if is_fused else torch.float32
        precise = torch.promote_types(self.linear_precision, least)
        parts = (x.to(self.linear_precision).to(precise) for x in (q, k, v, gate))
        run = functools.partial(
            self._run, state=state, entry=entry, lengths=lengths, is_fused=is_fused
        )
        with _without_autocast(q.device.type):
            if self.use_checkpoint and torch.is_grad_enabled():
                out, new_state = checkpoint(run, *parts, use_reentrant=False)
            else:
                out, new_state = run(*parts)
        if not is_backwards:
            new_state = self.state(new_state)
        if use_cache:
            kept: dict[str, Any] = {"recurrent_state": new_state}
            if self.mode.order > 1:
                kept["qkv"] = self._tails(buffers, (q, k, v, gate), lengths)
            if not self.mode.linear:
                kept["offset"] = self._advance(entry.get("offset"), q, lengths)
            store.update(self.layer_idx, **kept)
        return out.to(self.linear_precision)

    def compute_gate(
        self,
        beta: tuple[Float[Tensor, "batch kv_head pos #d_head"], ...]
        | Float[Tensor, "batch kv_head pos #d_head"],
    ) -> Float[Tensor, "batch kv_head pos #d_head"]:
        """Return the gate that the mode takes of the two: of keys, of values, or their product."""
        if isinstance(beta, Tensor):
            gate = beta
        elif self.mode.gate_type == "kv":
            gate = beta[0] * beta[1]
        else:
            gate = beta[0] if self.mode.gate_type == "k" else beta[1]
        return gate.clamp(*GATE_RANGE)

    def get_cache(self, use_cache: bool) -> tuple[Tensor | None, _Four | None]:
        """Return the state, and the last queries, keys, values and gates; None for none."""
        entry = self.linear_cache[self.layer_idx] if use_cache else None
        return (None, None) if entry is None else (entry["recurrent_state"], entry.get("qkv"))

    def save_cache(
        self,
        use_cache: bool,
        q: Float[Tensor, "batch head pos d_head"],
        k: Float[Tensor, "batch kv_head pos d_head"],
        v: Float[Tensor, "batch kv_head pos d_head"],
        gate: Float[Tensor, "batch kv_head pos #d_head"],
        state: Float[Tensor, "batch kv_head d_head d_head"],
    ) -> None:
        """Remember a state, and the last tokens that modes of a higher order look back at."""
        if use_cache:
            _, buffers = self.get_cache(use_cache)
            tails = self._tails(buffers, (q, k, v, gate), None)
            self.linear_cache.update(self.layer_idx, recurrent_state=state, qkv=tails)

    @staticmethod
    def chunk_delta_product_forward(
        query: Float[Tensor, "batch head pos d_head"],
        key: Float[Tensor, "batch kv_head pos d_head"],
        value: Float[Tensor, "batch kv_head pos d_head"],
        beta_gate: Float[Tensor, "batch kv_head pos #d_head"],
        chunk_size: int,
        n: int = 1,
        trick: str = "derivative",
        linear: bool = True,
        initial_state: Float[Tensor, "batch kv_head *shape d_head d_head"] | None = None,
        use_checkpoint: bool = True,
        linear_precision: torch.dtype = torch.float32,
    ) -> tuple[
        Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch kv_head d_head d_head"]
    ]:
        """Apply a recurrent mode to whole sequences (arXiv 2406.06484, 2502.10297).

        Args:
            query: The queries; heads share keys and values in groups.
            key: The keys, of norm 1 at most.
            value: The values.
            beta_gate: Strengths of the updates in (0, 1).
            chunk_size: See `linear_attention`.
            n: Updates of the state for each token.
            trick: How further updates are derived.
            linear: Whether no activation is applied to the state.
            initial_state: What to start from; of several for each head, the last is taken.
            use_checkpoint: Whether to compute again in the backward pass, to save memory.
            linear_precision: What to compute in; float32 at least.

        Returns:
            What each token reads, and the state after the last.
        """
        mode = RecurrentMode(order=n, trick=trick, linear=linear)
        precise = torch.promote_types(linear_precision, torch.float32)
        state = None if initial_state is None else initial_state.to(precise)
        if state is not None and state.ndim == 5:
            state = state[:, :, -1]
        parts = tuple(x.to(precise) for x in (query, key, value, beta_gate))
        run = functools.partial(linear_attention, mode=mode, state=state, chunk_size=chunk_size)
        with _without_autocast(query.device.type):
            if use_checkpoint and torch.is_grad_enabled():
                out, last = checkpoint(run, *parts, use_reentrant=False)
            else:
                out, last = run(*parts)
        return out.to(linear_precision), last

    def extra_repr(self) -> str:
        """Name the mode in what `print` shows."""
        return (
            f"{self.mode}, linear_precision={self.linear_precision}, compat={self.compat!r}, "
            f"backend={self.backend!r}"
        )

    def _run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gate: Tensor,
        *,
        state: Tensor | None,
        entry: Mapping[str, Any],
        lengths: Tensor | None,
        is_fused: bool,
    ) -> tuple[Tensor, Tensor]:
        if self.compat == "upstream":
            groups = q.shape[1] // k.shape[1]
            gate = gate.clamp(*GATE_RANGE).expand_as(k)
            k, v, gate = (x.repeat_interleave(groups, dim=1) for x in (k, v, gate))
            chunk = self.max_chunk_size
            out, last = published_operator(q, k, v, gate, mode=self.mode, chunk_size=chunk)
            return out, last[:, ::groups]
        buffers = entry.get("qkv")
        previous = None
        if buffers is not None and self.mode.order > 1:
            previous = (buffers[1].to(k.dtype), buffers[2].to(v.dtype))
        return linear_attention(
            q,
            k,
            v,
            gate,
            mode=self.mode,
            state=state if state is None or is_fused else state.to(q.dtype),
            chunk_size=self.max_chunk_size,
            previous=previous,
            offset=entry.get("offset"),
            lengths=lengths,
            backend="fla" if is_fused else "torch",
        )

    def _tails(self, buffers: _Four | None, new: _Four, lengths: Tensor | None) -> _Four:
        count = self.mode.order - 1
        before = buffers if buffers is not None else (None,) * 4
        q, k, v, gate = (
            take_last(old, x, count, lengths, dim=2) for old, x in zip(before, new, strict=True)
        )
        return q, k, v, gate

    def _advance(self, offset: Tensor | None, q: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            lengths = torch.full((len(q),), q.shape[2], device=q.device)
        return (lengths if offset is None else offset + lengths) % self.max_chunk_size


def _without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Return what keeps autocast away; nothing where there is none, which is faster."""
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def check_state(state: Tensor | None, q: Tensor, k: Tensor) -> None:
    """Check that a state, if there is one, is that of inputs like these.

    Raises:
        ArgumentError: (a ValueError) If it is not.
    """
    if state is None:
        return
    batch, heads, _, width = k.shape
    if state.shape != (batch, heads, width, width):
        raise ArgumentError(
            f"the state remembered is of shape {tuple(state.shape)!r}, this input of {len(q)} rows "
            f"needs {(batch, heads, width, width)!r}. Begin with a new cache, or call reset()."
        )
