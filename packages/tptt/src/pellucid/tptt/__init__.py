"""Pretrained transformers with linear attention beside softmax attention.

`linear_attention` applies the delta rule, or a product of several for each token, in time linear in
the length of the sequence; `delta_rule_recurrent` says what that means, one token after the other.
`LinearAttentionOp` is the same as a module that remembers.
"""

from pellucid.tptt._activation import unlinear_activation
from pellucid.tptt._chunks import chunk_sequence, fast_invert_matrix, get_valid_chunk_size
from pellucid.tptt._delta_rule import delta_rule_chunk, delta_rule_step
from pellucid.tptt._modes import (
    RECURRENT_MODES,
    ModeError,
    RecurrentMode,
    get_mode_name,
    parse_mode_name,
)
from pellucid.tptt._naive import delta_rule_recurrent
from pellucid.tptt._operator import LinearAttentionOp
from pellucid.tptt._published import published_operator, sequential_delta_product_scan
from pellucid.tptt._recurrence import linear_attention
from pellucid.tptt._stability import describe, ensure_stability, match_dim, soft_clamp
from pellucid.tptt._states import LCache
from pellucid.tptt._virtual import expand_virtual_tokens, expand_writes

__all__ = [
    "RECURRENT_MODES",
    "LCache",
    "LinearAttentionOp",
    "ModeError",
    "RecurrentMode",
    "chunk_sequence",
    "delta_rule_chunk",
    "delta_rule_recurrent",
    "delta_rule_step",
    "describe",
    "ensure_stability",
    "expand_virtual_tokens",
    "expand_writes",
    "fast_invert_matrix",
    "get_mode_name",
    "get_valid_chunk_size",
    "linear_attention",
    "match_dim",
    "parse_mode_name",
    "published_operator",
    "sequential_delta_product_scan",
    "soft_clamp",
    "unlinear_activation",
]
