"""Small decoders of our own, with the choices that interpretability research makes."""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import nn

from pellucid.bridge._architectures._record import Architecture, Attention, Block, Mlp, Stack
from pellucid.bridge._model._native_layers import NativeBlock, NativeNorm
from pellucid.bridge._names._config import TransformerBridgeConfig
from pellucid.core import ArgumentError

NativeConfig: TypeAlias = TransformerBridgeConfig | Mapping[str, Any]

_KIND = "PellucidNative"
_NORMS = ("LN", "LNPre", "RMS", "RMSPre", None)
_POSITIONS = ("standard", "rotary", "none")
_INITS = {
    "gpt2": lambda weight, std, g: nn.init.normal_(weight, std=std, generator=g),
    "xavier_uniform": lambda weight, std, g: nn.init.xavier_uniform_(weight, generator=g),
    "xavier_normal": lambda weight, std, g: nn.init.xavier_normal_(weight, generator=g),
    "kaiming_uniform": lambda weight, std, g: nn.init.kaiming_uniform_(
        weight, nonlinearity="relu", generator=g
    ),
    "kaiming_normal": lambda weight, std, g: nn.init.kaiming_normal_(
        weight, nonlinearity="relu", generator=g
    ),
}
ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "relu", "relu2", "silu", "solu", "solu_ln")


class PellucidNative(nn.Module):
    """A decoder: embeddings, blocks, final norm, unembedding.

    Args:
        cfg: Its sizes and kinds.
    """

    def __init__(self, cfg: TransformerBridgeConfig) -> None:
        from transformers import PretrainedConfig  # noqa: PLC0415 - costs seconds

        super().__init__()
        self.cfg = cfg
        # What transformers' attention functions, and whoever reads models of it, look at.
        self.config = PretrainedConfig.from_dict(
            {
                "architectures": [_KIND],
                "vocab_size": cfg.d_vocab,
                "hidden_size": cfg.d_model,
                "num_hidden_layers": cfg.n_layers,
                "num_attention_heads": cfg.n_heads,
                "num_key_value_heads": cfg.n_key_value_heads or cfg.n_heads,
                "head_dim": cfg.d_head,
                "intermediate_size": cfg.d_mlp,
                "max_position_embeddings": cfg.n_ctx,
                "eos_token_id": cfg.eos_token_id,
            },
            attn_implementation="eager",
        )
        self.embed = nn.Embedding(cfg.d_vocab, cfg.d_model)
        if cfg.positional_embedding_type == "standard":
            self.pos_embed = nn.Embedding(cfg.n_ctx, cfg.d_model)
        self.blocks = nn.ModuleList(NativeBlock(cfg, self.config, i) for i in range(cfg.n_layers))
        kind = cfg.normalization_type
        kind = kind.replace("LN", "RMS") if kind is not None and cfg.final_rms else kind
        self.ln_final = NativeNorm(kind, cfg.d_model, cfg.eps) if kind else nn.Identity()
        self.unembed = nn.Linear(cfg.d_model, cfg.d_vocab_out)
        if cfg.tie_word_embeddings:
            self.unembed.weight = self.embed.weight

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of token embeddings."""
        return self.embed

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        use_cache: bool = False,
    ) -> Any:
        """Return an output whose `logits` are of shape (batch, pos, d_vocab).

        Args:
            input_ids: Token ids of shape (batch, pos).
            attention_mask: 0 where a position is padding, of shape (batch, pos).
            position_ids: Of shape (batch, pos); counted from 0 if None.
            inputs_embeds: In place of tokens, of shape (batch, pos, d_model).
            use_cache: Understood and without effect: each call computes all positions.
        """
        from transformers.modeling_outputs import CausalLMOutput  # noqa: PLC0415 - costs seconds

        stream = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        n_batch, n_pos = stream.shape[:2]
        if position_ids is None:
            position_ids = torch.arange(n_pos, device=stream.device).expand(n_batch, n_pos)
        if self.cfg.positional_embedding_type == "standard":
            stream = stream + self.pos_embed(position_ids)
        mask = _additive_mask(stream, attention_mask, self.cfg.window_size)
        for block in self.blocks:
            stream = block(stream, mask, position_ids)
        logits = self.unembed(self.ln_final(stream))
        cap = self.cfg.output_logits_soft_cap
        return CausalLMOutput(logits=cap * torch.tanh(logits / cap) if cap > 0 else logits)

    def init_weights_native(self) -> None:
        """Draw the weights anew: matrices as `init_mode` says, biases 0, norms 1."""
        cfg = self.cfg
        std = cfg.initializer_range if cfg.initializer_range > 0 else 0.8 / math.sqrt(cfg.d_model)
        # Without a seed of its own, a model follows torch's global one, as any module does.
        seed = int(torch.randint(2**31, ())) if cfg.seed is None else cfg.seed
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if weight.ndim > 1:
                    drawn = torch.empty(weight.shape)
                    _INITS[cfg.init_mode](drawn, std, generator)
                    weight.copy_(drawn)
                else:
                    weight.fill_(0.0 if name.endswith("bias") else 1.0)


def _additive_mask(stream: Any, padding: Any, window: int | None) -> Any:
    n_pos = stream.shape[1]
    kept = torch.ones(n_pos, n_pos, dtype=torch.bool, device=stream.device).tril()
    if window is not None:
        kept = kept & ~kept.tril(-window)
    kept = kept[None, None]
    if padding is not None:
        kept = kept & padding[:, None, None, :].bool()
    lowest = torch.finfo(stream.dtype).min
    return stream.new_zeros(kept.shape).masked_fill(~kept, lowest)


def describe_native(cfg: TransformerBridgeConfig) -> Architecture:
    """Return the record of a native model."""
    has_norms = cfg.normalization_type is not None
    mlp = Mlp(path="mlp", in_="in_proj", gate="gate_proj", out="out_proj")
    block = Block(
        ln1="ln1" if has_norms else None,
        ln2="ln2" if has_norms else None,
        attn=Attention(path="attn", q="q_proj", k="k_proj", v="v_proj", o="o_proj"),
        mlp=None if cfg.attn_only else mlp,
        is_parallel=cfg.parallel_attn_mlp,
    )
    names = ("embed", "pos_embed", *(("ln_final",) if has_norms else ()), "unembed")
    return Architecture(
        classes=(_KIND,),
        stacks=(Stack(path="blocks", block=block),),
        parts=MappingProxyType({name: name for name in names}),
    )


def build_native(
    config: NativeConfig, *, device: torch.device | str | None, dtype: torch.dtype | None
) -> tuple[PellucidNative, Architecture, TransformerBridgeConfig]:
    """Return a native model, its record and its configuration, all of them new.

    Raises:
        ArgumentError: (a ValueError) If a field's value is not known.
    """
    if isinstance(config, TransformerBridgeConfig):
        cfg = dataclasses.replace(config)
    elif isinstance(config, Mapping):
        cfg = TransformerBridgeConfig.from_dict(config)
    else:
        raise ArgumentError(
            f"config must be a TransformerBridgeConfig or a dictionary, got {config!r}."
        )
    cfg.device = str(cfg.device if device is None else device)
    cfg.dtype = cfg.dtype if dtype is None else dtype
    cfg.d_mlp = None if cfg.attn_only else cfg.d_mlp or 4 * cfg.d_model
    cfg.act_fn = cfg.act_fn or "gelu"
    _check(cfg)
    cfg.architecture = _KIND
    # Layers draw their own weights first, which nobody asked for.
    with torch.random.fork_rng(devices=[]):
        model = PellucidNative(cfg)
    model.init_weights_native()
    return model.to(cfg.device, cfg.dtype).eval(), describe_native(cfg), cfg


def _check(cfg: TransformerBridgeConfig) -> None:
    if cfg.architecture not in (None, _KIND, "TransformerLensNative"):
        raise ArgumentError(f"architecture={cfg.architecture!r} is no native model.")
    known = {
        "normalization_type": _NORMS,
        "positional_embedding_type": _POSITIONS,
        "init_mode": tuple(_INITS),
        "act_fn": ACTIVATIONS,
    }
    for field, values in known.items():
        held = getattr(cfg, field)
        if held not in values:
            raise ArgumentError(f"{field}={held!r} must be one of {', '.join(map(repr, values))}.")
    if cfg.d_vocab < 1 or cfg.n_heads < 1 or cfg.d_head < 1:
        raise ArgumentError("a native model needs d_vocab, and n_heads or d_head.")
    if cfg.n_key_value_heads and cfg.n_heads % cfg.n_key_value_heads:
        raise ArgumentError(
            f"n_heads={cfg.n_heads} must be a multiple of "
            f"n_key_value_heads={cfg.n_key_value_heads}."
        )
    if cfg.tie_word_embeddings and cfg.d_vocab != cfg.d_vocab_out:
        raise ArgumentError("tied embeddings need as many logits as tokens.")
