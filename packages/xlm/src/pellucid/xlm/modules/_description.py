"""Where the parts of these networks are, in the words of `pellucid.core.DescribedModel`."""

from collections.abc import Mapping
from typing import Any

from torch import nn

_ATTENTION = {"path": "", "qkv": "attn_qkv", "o": "attn_out"}
_MLP = {"path": "", "in_": "ff_in", "out": "ff_out"}
_BLOCK = {"ln1": "norm1", "attn": _ATTENTION, "ln2": "norm2", "mlp": _MLP}


def describe_network(
    model: Any, *, is_masked: bool, unembed: bool, gated: bool
) -> Mapping[str, Any]:
    """Describe a network with an embedding, rotary layers and a final layer.

    Args:
        model: The network.
        is_masked: Whether logits are those of the token at their own position.
        unembed: Whether logits are made of the last stream by one norm and one projection.
        gated: Whether what attention and network write is gated before it joins the stream.
    """
    layers: nn.ModuleList = model.layers
    first: Any = layers[0]
    mixes = model.embedding.neighbours is not None
    parts = {"embed": "embedding" if mixes else "embedding.tokens", "readout": "final_layer"}
    if unembed and model.final_layer.linear is not None:
        parts |= {"ln_final": "final_layer.norm", "unembed": "final_layer.linear"}
    tokens = model.embedding.tokens
    return {
        "stacks": [{"path": "layers", "block": _BLOCK}],
        "parts": parts,
        "omits": ["blocks.*.hook_attn_out", "blocks.*.hook_mlp_out"] if gated else [],
        "input_name": "x_t",
        "is_masked": is_masked,
        "config": {
            "hidden_size": tokens.embedding_dim,
            "num_attention_heads": first.nhead,
            "num_hidden_layers": len(layers),
            "max_position_embeddings": model.max_length,
            "vocab_size": tokens.num_embeddings,
        },
    }
