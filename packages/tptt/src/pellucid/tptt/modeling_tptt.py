"""Models and operators, under the module name that code written for tptt imports them from."""

from pellucid.tptt._activation import unlinear_activation
from pellucid.tptt._checkpoint import load_tptt_safetensors, save_tptt_safetensors
from pellucid.tptt._chunks import chunk_sequence, fast_invert_matrix, get_valid_chunk_size
from pellucid.tptt._injection import get_tptt_model
from pellucid.tptt._later_modules import CausalConv1d, MemoryAsGate, VirtualTokenExpander
from pellucid.tptt._layouts import extract_layer_idx, find_embedding_lm, split_qkv
from pellucid.tptt._linear_attention import LinearAttention
from pellucid.tptt._liza import LiZAttention
from pellucid.tptt._masks import apply_linear_attention_mask, truncate_attention_mask
from pellucid.tptt._model import TpttModel
from pellucid.tptt._operator import LinearAttentionOp
from pellucid.tptt._pool import CausalAvgPool1d
from pellucid.tptt._published import sequential_delta_product_scan
from pellucid.tptt._stability import describe, ensure_stability, match_dim, soft_clamp
from pellucid.tptt._states import LCache
from pellucid.tptt._virtual import expand_virtual_tokens

__all__ = [
    "CausalAvgPool1d",
    "CausalConv1d",
    "LCache",
    "LiZAttention",
    "LinearAttention",
    "LinearAttentionOp",
    "MemoryAsGate",
    "TpttModel",
    "VirtualTokenExpander",
    "apply_linear_attention_mask",
    "chunk_sequence",
    "describe",
    "ensure_stability",
    "expand_virtual_tokens",
    "extract_layer_idx",
    "fast_invert_matrix",
    "find_embedding_lm",
    "get_tptt_model",
    "get_valid_chunk_size",
    "load_tptt_safetensors",
    "match_dim",
    "save_tptt_safetensors",
    "sequential_delta_product_scan",
    "soft_clamp",
    "split_qkv",
    "truncate_attention_mask",
    "unlinear_activation",
]
