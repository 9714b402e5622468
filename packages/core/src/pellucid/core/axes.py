"""The glossary of axis names.

Every tensor annotation in Pellucid takes its axis names from here, so that a name means one thing
in every package and a shape error speaks a language that its reader can look up.
"""

from collections.abc import Mapping
from types import MappingProxyType

AXES: Mapping[str, str] = MappingProxyType(
    {
        "batch": "independent samples that one forward pass holds",
        "batch_or_one": "batch, or 1 where all samples have it in common",
        "chunk": "pieces that a sequence is cut into, all of one length",
        "chunk_pos": "token positions of one chunk",
        "column": "columns of a matrix that is no attention pattern",
        "d_cond": "width of what layers are conditioned on, such as a time",
        "d_embed": "width of the vector that an encoder returns",
        "d_head": "width of one attention head",
        "d_mlp": "neurons of an MLP",
        "d_model": "width of the residual stream and of token embeddings",
        "d_state": "entries of a state space's state that each of its channels has",
        "d_vocab": "rows of the token embedding table, padded rows included",
        "d_pooled": "features of an average over tokens",
        "d_qkv": "features of queries, keys and values side by side",
        "expert": "experts of a mixture",
        "feature": "features of a part whose width has no name of its own",
        "kept": "tokens of an input that are left, its last ones",
        "lag_kept": "tokens before the first of an input that are looked back at",
        "half_rotary": "pairs of channels of a head that turn with the position",
        "head": "attention heads",
        "held_layer": "layers whose states an output holds, ascending; all unless it says which",
        "held_pos": "positions whose states an output holds; all unless it says which",
        "k": "entries kept of a longer axis, best first",
        "kv_head": "heads of keys and values, each shared by a group of query heads",
        "lag": "tokens just before the first of an input, the last of them nearest to it",
        "layer": "transformer blocks, first to last",
        "n_allowed": "token ids that a constraint admits, ascending",
        "n_candidates": "trigger candidates evaluated together",
        "n_classes": "classes of a classifier",
        "n_losses": "components of a combined loss",
        "n_params": "weights of a model, flattened in the order of its parameters",
        "n_templates": "templates that one trigger must serve",
        "n_updates": "updates of a recurrent state that one token makes, in their order",
        "pos": "token positions of a full input, first to last",
        "rest": "any further axes, whatever they mean (written *rest)",
        "picked_pos": "positions picked by a mask from all rows, in reading order",
        "picked_token": "pairs of a position and a token that are asked for, from all rows",
        "rotary": "features of a head that its position rotates",
        "row": "rows of a matrix that is no attention pattern",
        "query_pos": "positions that attend, as rows of an attention pattern",
        "key_pos": "positions attended to, as columns of an attention pattern",
        "response_pos": "token positions of a generated response",
        "shape": "any number of axes, whatever they mean, kept as they are (written *shape)",
        "slot": "tokens after which another may be inserted, first to last",
        "target_pos": "token positions of a target response",
        "trigger_pos": "token positions of the trigger",
        "virtual_pos": "updates of a recurrent state, several for each token position",
    }
)
"""Axis name to its meaning."""

__all__ = ["AXES"]
