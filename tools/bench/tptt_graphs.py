"""Count what torch.compile cannot take into one graph: the operator, a converted model, decoding.

    PELLUCID_TYPECHECK=0 uv run python tools/bench/tptt_graphs.py

Prints the number of graph breaks of each as a line of JSON. Checks of shapes at run time are breaks
themselves, so that they are off.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import _dynamo as dynamo
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from pellucid.tptt import RECURRENT_MODES, LinearAttentionOp, get_tptt_model

POS = 40


def operators() -> dict[str, Callable[[], Any]]:
    """Return each recurrent mode, applied to one sequence."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(1, 2, POS, 8, generator=generator) for _ in range(4)]
    return {
        f"operator {mode}": functools.partial(
            LinearAttentionOp(0, mode, max_chunk_size=16), *inputs
        )
        for mode in RECURRENT_MODES
    }


def models() -> dict[str, Callable[[], Any]]:
    """Return a converted model over a prompt, trained, and at one more token."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model, _ = get_tptt_model(LlamaForCausalLM(config).eval(), config)
    ids = torch.arange(POS)[None]
    cache = DynamicCache(config=config)
    with torch.no_grad():
        model(ids, past_key_values=cache)

    def decode() -> Any:
        with torch.no_grad():
            return model(ids[:, :1], past_key_values=cache)

    return {
        "model forward": lambda: model(ids, use_cache=False).logits,
        "model loss": lambda: model(ids, labels=ids, use_cache=False).loss,
        "model decoding": decode,
    }


def count() -> dict[str, int]:
    """Return the number of breaks of each piece."""
    counted: dict[str, int] = {}
    for name, piece in {**operators(), **models()}.items():
        torch.compiler.reset()
        counted[name] = dynamo.explain(piece)().graph_break_count
    return counted


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(count()))
