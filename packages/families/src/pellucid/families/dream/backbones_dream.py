"""Backbones of transformers, which is needed for these alone."""

import importlib
from typing import Any

from torch import nn

from pellucid.core import RequirementError


def load_backbone(name: str, **settings: Any) -> nn.Module:
    """Load a causal language model with its weights.

    Args:
        name: A directory, or the name of a model of the hub.
        settings: Handed to `AutoModelForCausalLM.from_pretrained`, such as `dtype`.

    Raises:
        RequirementError: transformers is not installed.
    """
    return _transformers().AutoModelForCausalLM.from_pretrained(name, **settings)


def qwen2_backbone(
    vocab_size: int,
    d_model: int,
    num_layers: int,
    nhead: int,
    *,
    num_kv_heads: int | None = None,
    dim_feedforward: int | None = None,
    max_length: int = 1024,
    tie_embeddings: bool = True,
) -> nn.Module:
    """Build a Qwen2 of any size, the shape of Dream, with random weights.

    Args:
        vocab_size: Rows of the embedding table.
        d_model: Width of the residual stream.
        num_layers: Layers.
        nhead: Attention heads of each.
        num_kv_heads: Heads of keys and values; as many as `nhead` if None.
        dim_feedforward: Width of a layer's network; four times `d_model` if None.
        max_length: Positions run from 0 to `max_length - 1`.
        tie_embeddings: Let logits be products with the embeddings of tokens.

    Raises:
        RequirementError: transformers is not installed.
    """
    transformers = _transformers()
    config = transformers.Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=d_model,
        num_hidden_layers=num_layers,
        num_attention_heads=nhead,
        num_key_value_heads=num_kv_heads or nhead,
        intermediate_size=dim_feedforward or 4 * d_model,
        max_position_embeddings=max_length,
        tie_word_embeddings=tie_embeddings,
    )
    return transformers.Qwen2ForCausalLM(config)


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        message = "this backbone is one of transformers; pip install 'pellucid-families[dream]'"
        raise RequirementError(message) from error
