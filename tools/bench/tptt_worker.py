"""One contestant of `tptt.py`: reads a piece of work as a line of JSON, answers with its time.

Runs in this workspace's environment as "pellucid", in one of its own as "tptt".
"""

import copy
import functools
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import normalize, silu
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

HEADS, WIDTH, CHUNK = 8, 64, 64
MODES = {"one": "delta_rule", "two": "delta_product"}


def operator_inputs(pos: int, gradient: bool) -> list[torch.Tensor]:
    """Return queries, keys, values and gates such as a layer makes."""
    generator = torch.Generator().manual_seed(0)

    def noise() -> torch.Tensor:
        return torch.randn(1, HEADS, pos, WIDTH, generator=generator)

    unit = [normalize(silu(noise()), dim=-1) for _ in range(2)]
    return [x.requires_grad_(gradient) for x in (*unit, noise() / 8, torch.sigmoid(noise()))]


def operator(package: str, pos: int, gradient: bool) -> Callable[[], Any]:
    """Return what applies the operator of order 1 to one sequence."""
    inputs = operator_inputs(pos, gradient)
    if package == "pellucid":
        from pellucid.tptt import LinearAttentionOp  # noqa: PLC0415

        run = functools.partial(
            LinearAttentionOp.chunk_delta_product_forward, *inputs, CHUNK, use_checkpoint=False
        )
    else:
        from tptt.modeling_tptt import (  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
            LinearAttentionOp,
        )

        q, k, v, gate = (x[:, :, :, None] for x in inputs)
        run = functools.partial(
            LinearAttentionOp.chunk_delta_product_forward,
            *(q, k, v, torch.ones_like(gate), gate),
            chunk_size=CHUNK,
            use_checkpoint=False,
        )
    return lambda: torch.autograd.grad(run()[0].sum(), inputs) if gradient else run()


@functools.cache
def model(package: str, kind: str) -> Any:
    """Return a random Llama of 4 layers and width 256, as it is or converted."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        pad_token_id=0,
    )
    base = LlamaForCausalLM(config).eval()
    if kind == "base":
        return base
    if package == "pellucid":
        from pellucid.tptt import get_tptt_model  # noqa: PLC0415

        mode, share = MODES.get(kind, "delta_rule"), 0.0 if kind == "zero" else 0.5
        copied = copy.deepcopy(base)
        return get_tptt_model(copied, config, operator_mode=mode, mag_weight=share)[0]
    from tptt.modeling_tptt import (  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        get_tptt_model,
    )

    converted, _ = get_tptt_model(base, config, operator_mode=MODES[kind])
    return converted.eval()


@functools.cache
def layer(package: str, kind: str) -> Any:
    """Return the attention of one layer of Llama-3.2-1B's shape, as it is or converted."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=1,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
    )
    config._attn_implementation = "sdpa"  # pyright: ignore[reportPrivateUsage] - as a model would choose
    attn = LlamaAttention(config, 0).eval()
    if kind == "layer base":
        return attn
    if package == "pellucid":
        from pellucid.tptt import LiZAttention  # noqa: PLC0415

        return LiZAttention(attn, 0, config)
    from tptt.modeling_tptt import (  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        LiZAttention as Theirs,
    )

    return Theirs(attn, 0, config).eval()


def layer_piece(package: str, kind: str, pos: int) -> Callable[[], Any]:
    """Return what runs one layer's attention over a sequence."""
    attn = layer(package, kind)
    x = torch.randn(1, pos, 2048, generator=torch.Generator().manual_seed(0))
    angles = torch.arange(pos)[None, :, None] * torch.linspace(1, 0.01, 64)
    options = {"position_embeddings": (angles.cos(), angles.sin()), "attention_mask": None}
    return lambda: attn(x, **options)


def model_piece(package: str, kind: str, task: str, pos: int) -> Callable[[], Any]:
    """Return what runs a model forward, forward and backward, or generates."""
    lm = model(package, kind)
    ids = torch.randint(0, 4096, (1, pos), generator=torch.Generator().manual_seed(0))
    if task == "generate":
        options = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False}
        return lambda: lm.generate(ids, attention_mask=torch.ones_like(ids), **options)
    if task == "both":
        return lambda: lm(ids, labels=ids, use_cache=False).loss.backward()
    return lambda: lm(ids, use_cache=False)


def main() -> None:
    """Answer until there is nothing more to read."""
    package = sys.argv[1]
    torch.set_num_threads(1)
    for line in sys.stdin:
        work = json.loads(line)
        gradient = work["task"] == "both"
        with torch.set_grad_enabled(gradient):
            if work["what"] == "operator":
                piece = operator(package, work["pos"], gradient)
            elif work["what"].startswith("layer"):
                piece = layer_piece(package, work["what"], work["pos"])
            else:
                piece = model_piece(package, work["what"], work["task"], work["pos"])
            if work.get("warm", True):
                piece()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start = time.process_time()
            piece()
            spent = time.process_time() - start
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps({"ms": 1000 * spent, "mb": grown / 1024}), flush=True)


if __name__ == "__main__":
    main()
