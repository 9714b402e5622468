"""The layers of native models."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pellucid.bridge._names._config import TransformerBridgeConfig


class NativeNorm(nn.Module):
    """LayerNorm or RMSNorm; the kinds that end in Pre have no weights.

    Args:
        kind: "LN", "LNPre", "RMS" or "RMSPre".
        width: Of the axis that is normalised.
        eps: Added to the variance.
    """

    def __init__(self, kind: str, width: int, eps: float) -> None:
        super().__init__()
        self.is_centred = kind.startswith("LN")
        self.eps = eps
        has_weight = not kind.endswith("Pre")
        self.weight = nn.Parameter(torch.ones(width)) if has_weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if has_weight and self.is_centred else None

    def forward(self, stream: Tensor) -> Tensor:
        """Return the normalised stream."""
        x = stream.to(torch.promote_types(stream.dtype, torch.float32))
        x = x - x.mean(-1, keepdim=True) if self.is_centred else x
        x = x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()
        x = x if self.weight is None else x * self.weight
        return (x if self.bias is None else x + self.bias).to(stream.dtype)


class NativeAttention(nn.Module):
    """Causal attention, which asks for its attention function as transformers' models do."""

    def __init__(self, cfg: TransformerBridgeConfig, config: Any, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer
        self.num_heads, self.head_dim = cfg.n_heads, cfg.d_head
        self.num_key_value_heads = cfg.n_key_value_heads or cfg.n_heads
        self.num_key_value_groups = self.num_heads // self.num_key_value_heads
        self.is_causal = True
        self.scaling = cfg.d_head**-0.5
        self.softcap = cfg.attn_scores_soft_cap if cfg.attn_scores_soft_cap > 0 else None
        is_rotary = cfg.positional_embedding_type == "rotary"
        self.rotary_dim = (cfg.rotary_dim or cfg.d_head) if is_rotary else 0
        self.rotary_base = cfg.rotary_base
        width, shared = cfg.n_heads * cfg.d_head, self.num_key_value_heads * cfg.d_head
        self.q_proj = nn.Linear(cfg.d_model, width)
        self.k_proj = nn.Linear(cfg.d_model, shared)
        self.v_proj = nn.Linear(cfg.d_model, shared)
        self.o_proj = nn.Linear(width, cfg.d_model)

    def forward(self, hidden_states: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Return what attention adds to the stream."""
        from transformers.modeling_utils import (  # noqa: PLC0415 - costs seconds
            ALL_ATTENTION_FUNCTIONS,
        )

        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.rotary_dim:
            query, key = self._rotate(query, positions), self._rotate(key, positions)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        mixed, _ = attend(self, query, key, value, mask, scaling=self.scaling, softcap=self.softcap)
        return self.o_proj(mixed.flatten(-2))

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        half = self.rotary_dim // 2
        steps = torch.arange(half, device=x.device, dtype=torch.float32) / half
        angles = positions[:, None, :, None] * self.rotary_base**-steps
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
        turned = (first * cos - second * sin, second * cos + first * sin, rest)
        return torch.cat(turned, dim=-1)


def eager_attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attend; the result is of shape (batch, pos, head, d_head), the pattern beside it."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores = scores + attention_mask
    pattern = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


class NativeMlp(nn.Module):
    """A feed-forward layer, gated or not."""

    def __init__(self, cfg: TransformerBridgeConfig) -> None:
        super().__init__()
        width = cfg.d_mlp or 4 * cfg.d_model
        self.act_fn = str(cfg.act_fn)
        self.in_proj = nn.Linear(cfg.d_model, width)
        if cfg.gated_mlp:
            self.gate_proj = nn.Linear(cfg.d_model, width)
        if self.act_fn == "solu_ln":
            self.ln = NativeNorm("LN", width, cfg.eps)
        self.out_proj = nn.Linear(width, cfg.d_model)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return what the layer adds to the stream."""
        hidden = self.in_proj(hidden_states)
        if hasattr(self, "gate_proj"):
            hidden = self._activate(self.gate_proj(hidden_states)) * hidden
        else:
            hidden = self._activate(hidden)
        return self.out_proj(self.ln(hidden) if hasattr(self, "ln") else hidden)

    def _activate(self, x: Tensor) -> Tensor:
        name = self.act_fn
        if name.startswith("solu"):
            return x * x.softmax(-1)
        if name in ("gelu_new", "gelu_fast"):
            return functional.gelu(x, approximate="tanh")
        if name == "relu2":
            return functional.relu(x).square()
        return {"gelu": functional.gelu, "relu": functional.relu, "silu": functional.silu}[name](x)


class NativeBlock(nn.Module):
    """Attention and, unless it is attention only, a feed-forward layer."""

    def __init__(self, cfg: TransformerBridgeConfig, config: Any, layer: int) -> None:
        super().__init__()
        self.is_parallel = cfg.parallel_attn_mlp
        kind = cfg.normalization_type
        self.ln1 = NativeNorm(kind, cfg.d_model, cfg.eps) if kind else nn.Identity()
        self.attn = NativeAttention(cfg, config, layer)
        if not cfg.attn_only:
            self.ln2 = NativeNorm(kind, cfg.d_model, cfg.eps) if kind else nn.Identity()
            self.mlp = NativeMlp(cfg)

    def forward(self, hidden_states: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Return the stream after this block."""
        residual = hidden_states
        hidden_states = residual + self.attn(self.ln1(residual), mask, positions)
        if not hasattr(self, "mlp"):
            return hidden_states
        read = residual if self.is_parallel else hidden_states
        return hidden_states + self.mlp(self.ln2(read))
