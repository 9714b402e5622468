"""Pretrained transformers with linear attention beside softmax attention.

`linear_attention` applies the delta rule, or a product of several for each token, in time linear in
the length of the sequence; `delta_rule_recurrent` says what that means, one token after the other.
`get_tptt_model` puts layers of it beside the softmax attention of a pretrained model, and
`TpttModel` is that model with its config, adapters and files.
"""

from pellucid.tptt._activation import unlinear_activation
from pellucid.tptt._base_model import load_base_model
from pellucid.tptt._callbacks import LiZACallback, SaveBestModelCallback, ensure_int
from pellucid.tptt._card import extract_template_variables, generate_model_card
from pellucid.tptt._checkpoint import load_tptt_safetensors, save_tptt_safetensors
from pellucid.tptt._chunks import chunk_sequence, fast_invert_matrix, get_valid_chunk_size
from pellucid.tptt._config import TpttConfig, convert_sets_to_lists
from pellucid.tptt._delta_rule import delta_rule_chunk, delta_rule_step
from pellucid.tptt._injection import (
    NoTargetError,
    find_targets,
    get_tptt_model,
    list_liza,
    set_mag_weight,
)
from pellucid.tptt._later_modules import CausalConv1d, MemoryAsGate, VirtualTokenExpander
from pellucid.tptt._later_names import (
    construct_causal_forward_solver,
    get_model_name,
    render_template,
    set_trainable_parameters,
)
from pellucid.tptt._layouts import (
    AttentionLayout,
    HeadSizes,
    extract_layer_idx,
    find_embedding_lm,
    find_projections,
    register_attention_adapter,
    split_qkv,
)
from pellucid.tptt._linear_attention import LinearAttention
from pellucid.tptt._liza import LiZAttention
from pellucid.tptt._lora import make_lora_config
from pellucid.tptt._masks import apply_linear_attention_mask, truncate_attention_mask
from pellucid.tptt._memory import get_memory_state, set_memory_state
from pellucid.tptt._model import TpttModel
from pellucid.tptt._modes import (
    RECURRENT_MODES,
    ModeError,
    RecurrentMode,
    get_mode_name,
    parse_mode_name,
)
from pellucid.tptt._naive import delta_rule_recurrent
from pellucid.tptt._operator import LinearAttentionOp
from pellucid.tptt._pool import CausalAvgPool1d
from pellucid.tptt._published import published_operator, sequential_delta_product_scan
from pellucid.tptt._recurrence import linear_attention
from pellucid.tptt._stability import describe, ensure_stability, match_dim, soft_clamp
from pellucid.tptt._states import LCache
from pellucid.tptt._virtual import expand_virtual_tokens, expand_writes

__all__ = [
    "RECURRENT_MODES",
    "AttentionLayout",
    "CausalAvgPool1d",
    "CausalConv1d",
    "HeadSizes",
    "LCache",
    "LiZACallback",
    "LiZAttention",
    "LinearAttention",
    "LinearAttentionOp",
    "MemoryAsGate",
    "ModeError",
    "NoTargetError",
    "RecurrentMode",
    "SaveBestModelCallback",
    "TpttConfig",
    "TpttModel",
    "VirtualTokenExpander",
    "apply_linear_attention_mask",
    "chunk_sequence",
    "construct_causal_forward_solver",
    "convert_sets_to_lists",
    "delta_rule_chunk",
    "delta_rule_recurrent",
    "delta_rule_step",
    "describe",
    "ensure_int",
    "ensure_stability",
    "expand_virtual_tokens",
    "expand_writes",
    "extract_layer_idx",
    "extract_template_variables",
    "fast_invert_matrix",
    "find_embedding_lm",
    "find_projections",
    "find_targets",
    "generate_model_card",
    "get_memory_state",
    "get_mode_name",
    "get_model_name",
    "get_tptt_model",
    "get_valid_chunk_size",
    "linear_attention",
    "list_liza",
    "load_base_model",
    "load_tptt_safetensors",
    "make_lora_config",
    "match_dim",
    "parse_mode_name",
    "published_operator",
    "register_attention_adapter",
    "render_template",
    "save_tptt_safetensors",
    "sequential_delta_product_scan",
    "set_mag_weight",
    "set_memory_state",
    "set_trainable_parameters",
    "soft_clamp",
    "split_qkv",
    "truncate_attention_mask",
    "unlinear_activation",
]
