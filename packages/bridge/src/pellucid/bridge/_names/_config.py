"""What a bridged model is, in numbers, under the names that users of TransformerLens know."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pellucid.bridge._architectures._described import read_config
from pellucid.bridge._architectures._heads import read_width
from pellucid.bridge._architectures._record import Architecture
from pellucid.core import ArgumentError

# Each of our names, and those under which configurations of transformers keep it.
_NAMES: dict[str, tuple[str, ...]] = {
    "n_heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "n_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "n_key_value_heads": ("num_key_value_heads", "num_kv_heads"),
    "n_ctx": ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"),
    "d_mlp": ("intermediate_size", "n_inner", "d_ff", "ffn_dim", "ffn_hidden_size"),
    "d_head": ("head_dim", "d_kv"),
    "d_vocab": ("vocab_size",),
    "act_fn": ("hidden_activation", "activation_function", "hidden_act", "activation"),
    "eps": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"),
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "experts_per_token": ("num_experts_per_tok", "experts_per_token"),
    "output_logits_soft_cap": ("final_logit_softcapping",),
    "attn_scores_soft_cap": ("attn_logit_softcapping",),
    "window_size": ("sliding_window",),
    "tie_word_embeddings": ("tie_word_embeddings",),
    "eos_token_id": ("eos_token_id",),
    "decoder_start_token_id": ("decoder_start_token_id",),
}


@dataclasses.dataclass(kw_only=True)
class TransformerBridgeConfig:
    """A model's sizes and kinds, and the bridge's switches.

    Attributes:
        d_model: Width of the residual stream.
        n_layers: How many blocks there are.
        n_heads: Query heads of a block.
        d_head: Width of a head.
        n_key_value_heads: Key and value heads, if fewer than query heads.
        d_mlp: Width of the MLP's hidden layer.
        d_vocab: Rows of the token table; d_vocab_out: entries of the logits.
        n_ctx: How many positions the model was made for.
        act_fn: Name of the MLP's activation function.
        eps: What norms add to the variance.
        normalization_type: "LN", "RMS", "LNPre", "RMSPre" or None.
        positional_embedding_type: "standard", "rotary", "alibi" or "none".
        architecture: Name of the model's class.
        model_name: What the model was loaded from.
        use_attn_result: Whether "all activations" holds each head's result.
        use_split_qkv_input: Whether it holds each head's input, by projection.
        use_attn_in: Whether it holds each head's input.
        use_hook_mlp_in: Whether it holds the stream as the MLP alone reads it.
        use_expert_results: Whether it holds what single experts of a mixture do.
    """

    d_model: int
    n_layers: int
    n_heads: int = -1
    d_head: int = -1
    n_key_value_heads: int | None = None
    d_mlp: int | None = None
    d_vocab: int = -1
    d_vocab_out: int = -1
    n_ctx: int = 2048
    act_fn: str | None = None
    eps: float = 1e-5
    normalization_type: str | None = "LN"
    positional_embedding_type: str = "standard"
    architecture: str | None = None
    model_name: str = "custom"
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    attn_only: bool = False
    gated_mlp: bool = False
    parallel_attn_mlp: bool = False
    final_rms: bool = False
    rotary_dim: int | None = None
    rotary_base: float = 10000.0
    num_experts: int | None = None
    experts_per_token: int | None = None
    output_logits_soft_cap: float = -1.0
    attn_scores_soft_cap: float = -1.0
    window_size: int | None = None
    tie_word_embeddings: bool = False
    eos_token_id: Any = None
    decoder_start_token_id: int | None = None
    seed: int | None = None
    init_mode: str = "gpt2"
    initializer_range: float = -1.0
    default_prepend_bos: bool = True
    tokenizer_prepends_bos: bool = False
    tokenizer_appends_eos: bool = False
    use_attn_result: bool = False
    use_split_qkv_input: bool = False
    use_attn_in: bool = False
    use_hook_mlp_in: bool = False
    use_expert_results: bool = False

    def __post_init__(self) -> None:
        if self.n_heads == -1 and self.d_head > 0:
            self.n_heads = self.d_model // self.d_head
        if self.d_head == -1 and self.n_heads > 0:
            self.d_head = self.d_model // self.n_heads
        if self.d_vocab_out == -1:
            self.d_vocab_out = self.d_vocab

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> "TransformerBridgeConfig":
        """Return the configuration that a dictionary describes.

        Raises:
            ArgumentError: (a ValueError) If it has a key that is no field.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(held) - known)
        if unknown:
            raise ArgumentError(
                f"unknown fields {unknown!r}. Known are {', '.join(sorted(known))}."
            )
        return cls(**held)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary, from which `from_dict` makes an equal one."""
        return dataclasses.asdict(self)

    @classmethod
    def from_model(
        cls, model: nn.Module, record: Architecture, config: Any = None
    ) -> "TransformerBridgeConfig":
        """Read the configuration of a model of transformers; several words, one meaning."""
        held: Any = read_config(model) if config is None else config
        text = held.get_text_config() if hasattr(held, "get_text_config") else held
        made = cls.from_dict({**_read_sizes(text), "d_model": read_width(text)})
        block = record.stacks[-1].block
        weight = next(model.parameters(), torch.empty(0))
        made.architecture = type(model).__name__
        made.model_name = getattr(held, "_name_or_path", "") or made.architecture
        made.device, made.dtype = str(weight.device), weight.dtype
        made.gated_mlp = block.mlp is not None and bool(block.mlp.gate or block.mlp.gate_in)
        made.attn_only = block.mlp is None
        made.parallel_attn_mlp = _is_parallel(block.is_parallel, text)
        made.normalization_type = _norm_type(model)
        made.positional_embedding_type = _position_type(record, text)
        return made


def _read_sizes(config: Any) -> dict[str, Any]:
    """Return what a configuration says, under our names; what it does not say is left out."""
    found = {name: _first(config, theirs) for name, theirs in _NAMES.items()}
    return {name: value for name, value in found.items() if value is not None}


def _first(config: Any, names: tuple[str, ...]) -> Any:
    return next((v for n in names if (v := _read(config, n)) is not None), None)


def _read(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except (AttributeError, ValueError, RuntimeError):
        # Some configurations refuse what differs from layer to layer.
        return None


def _is_parallel(declared: bool | str, config: Any) -> bool:
    return bool(getattr(config, declared, False)) if isinstance(declared, str) else declared


def _norm_type(model: nn.Module) -> str:
    names = {type(module).__name__ for module in model.modules()}
    return "RMS" if any("RMS" in name or "T5LayerNorm" in name for name in names) else "LN"


def _position_type(record: Architecture, config: Any) -> str:
    if "pos_embed" in record.parts:
        return "standard"
    if getattr(config, "alibi", False) or "Bloom" in type(config).__name__:
        return "alibi"
    return (
        "rotary" if "rotary_emb" in record.parts or hasattr(config, "rope_parameters") else "none"
    )
