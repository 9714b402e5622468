"""Tiny Hugging Face models from configs: random, seeded, and nowhere zero."""

import math
from typing import Any

import torch
from torch import nn

from pellucid.core import ArgumentError
from pellucid.testing._tiny_hf_tokenizers import tiny_tokenizer, tiny_wordpiece_tokenizer

_EMBEDDING_SCALE = 0.5


def tiny_llama(
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    padded_rows: int = 0,
    vocab_size: int | None = None,
    **config: Any,
) -> Any:
    """Return a `LlamaForCausalLM` of two layers for `tiny_tokenizer`, in eval mode.

    Args:
        seed: Of the weights; no global generator is touched.
        dtype: Of the weights.
        padded_rows: Rows of the embedding table that no token has, added to `vocab_size`.
        vocab_size: The number of tokens; that of `tiny_tokenizer()` when omitted.
        **config: Fields of `LlamaConfig`.
    """
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - an extra

    tokenizer = tiny_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": (vocab_size or len(tokenizer)) + padded_rows,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        **_special_ids(tokenizer),
        **config,
    }
    return _randomize(LlamaForCausalLM, LlamaConfig(**settings), seed, dtype)


def tiny_gpt2(
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    padded_rows: int = 0,
    vocab_size: int | None = None,
    **config: Any,
) -> Any:
    """Return a `GPT2LMHeadModel` of two layers for `tiny_tokenizer`, in eval mode; head tied.

    Args:
        seed: Of the weights; no global generator is touched.
        dtype: Of the weights.
        padded_rows: Rows of the embedding table that no token has, added to `vocab_size`.
        vocab_size: The number of tokens; that of `tiny_tokenizer()` when omitted.
        **config: Fields of `GPT2Config`.
    """
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415 - an extra

    tokenizer = tiny_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": (vocab_size or len(tokenizer)) + padded_rows,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 512,
        **_special_ids(tokenizer),
        **config,
    }
    return _randomize(GPT2LMHeadModel, GPT2Config(**settings), seed, dtype)


def tiny_bert(
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    padded_rows: int = 0,
    vocab_size: int | None = None,
    **config: Any,
) -> Any:
    """Return a `BertModel` of two layers for `tiny_wordpiece_tokenizer`, in eval mode.

    Args:
        seed: Of the weights; no global generator is touched.
        dtype: Of the weights.
        padded_rows: Rows of the embedding table that no token has, added to `vocab_size`.
        vocab_size: The number of tokens; that of `tiny_wordpiece_tokenizer()` when omitted.
        **config: Fields of `BertConfig`.
    """
    from transformers import BertConfig, BertModel  # noqa: PLC0415 - an extra

    tokenizer = tiny_wordpiece_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": (vocab_size or len(tokenizer)) + padded_rows,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        **config,
    }
    return _randomize(BertModel, BertConfig(**settings), seed, dtype)


def _special_ids(tokenizer: Any) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(tokenizer, name) for name in names}


def _randomize(model_class: Any, config: Any, seed: int, dtype: torch.dtype) -> Any:
    """Build a model and draw every weight anew, those that are 0 or 1 by default included.

    With biases of 0 and norms of 1, a test cannot tell a right fold of them from a wrong one.
    """
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ArgumentError(f"dtype must be a float type, got {dtype!r}.")
    with torch.random.fork_rng(devices=[]):  # building draws from the global generator
        model = model_class(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                # Drawn in float32 whatever the dtype, so that one seed is one model.
                weight.copy_(_draw(module, name, weight.shape, generator))
    return model.to(dtype).eval()


def _draw(
    module: nn.Module, name: str, shape: torch.Size, generator: torch.Generator
) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if name == "bias":
        return 0.1 * noise
    if len(shape) == 1:  # the weight of a norm
        return 1 + 0.2 * noise
    if isinstance(module, nn.Embedding):
        return _EMBEDDING_SCALE * noise
    fan_in = shape[1] if isinstance(module, nn.Linear) else shape[0]
    return noise / math.sqrt(fan_in)
