"""Models that others have prepared: spread, wrapped, compiled or quantised."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from pellucid.bridge import ArchitectureError, TransformerBridge
from pellucid.testing import tiny_llama

NAMES = ["blocks.0.hook_resid_mid", "blocks.1.attn.hook_pattern", "blocks.1.mlp.hook_post"]


def hold_to(bridge: TransformerBridge, tokens: torch.Tensor, *, tolerance: float = 1e-4) -> None:
    logits, cache = bridge.run_with_cache(tokens, names_filter=NAMES)
    torch.testing.assert_close(logits, bridge(tokens), atol=tolerance, rtol=tolerance)
    assert len(cache) == 3
    for name in NAMES:
        edited = bridge.run_with_hooks(tokens, fwd_hooks=[(name, lambda v, hook: v * 0)])
        assert not torch.allclose(edited, logits, atol=1e-3)
    residual = bridge(tokens, stop_at_layer=1)
    again = bridge(residual, start_at_layer=1)
    torch.testing.assert_close(again, logits, atol=tolerance, rtol=tolerance)


def test_a_model_that_accelerate_has_dispatched(tokens: torch.Tensor, unchanged: Any) -> None:
    from accelerate import cpu_offload

    expected = tiny_llama()(tokens).logits
    model = cpu_offload(tiny_llama(), execution_device=torch.device("cpu"))
    bridge = TransformerBridge(model)
    with torch.no_grad():
        torch.testing.assert_close(bridge(tokens), expected)
        logits, cache = bridge.run_with_cache(tokens, names_filter=NAMES)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert len(cache) == 3


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_model_that_peft_has_wrapped(tokens: torch.Tensor) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped: Any = get_peft_model(tiny_llama(), config)
    bridge = TransformerBridge(wrapped.get_base_model())
    torch.testing.assert_close(bridge(tokens), wrapped(tokens).logits)
    hold_to(bridge, tokens)
    _, cache = bridge.run_with_cache(tokens, names_filter=("q", 0))
    with wrapped.disable_adapter():
        _, plain = bridge.run_with_cache(tokens, names_filter=("q", 0))
    assert not torch.allclose(cache["q", 0], plain["q", 0])


def test_a_model_that_is_spread_over_memory_and_disk(tokens: torch.Tensor, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_llama().save_pretrained(folder)
    expected = tiny_llama()(tokens).logits
    places = {
        "model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu",
        "lm_head": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
    }  # fmt: skip
    model = LlamaForCausalLM.from_pretrained(
        folder, device_map=places, offload_folder=str(tmp_path / "weights")
    )
    assert next(model.model.layers[1].parameters()).device.type == "meta"
    bridge = TransformerBridge(model)
    with torch.no_grad(), unchanged_modules(model):
        torch.testing.assert_close(bridge(tokens), expected)
        logits, cache = bridge.run_with_cache(tokens)
        torch.testing.assert_close(logits, expected)
        _, plain = TransformerBridge(tiny_llama()).run_with_cache(tokens)
        derived = ["blocks.0.ln1.hook_scale", "blocks.1.attn.hook_pattern", "blocks.1.hook_out"]
        for name in derived:
            torch.testing.assert_close(cache[name], plain[name], atol=1e-5, rtol=1e-4)
        for name in NAMES:
            edited = bridge.run_with_hooks(tokens, fwd_hooks=[(name, lambda v, hook: v * 0)])
            assert not torch.allclose(edited, logits, atol=1e-3)


@contextlib.contextmanager
def unchanged_modules(model: Any) -> Iterator[None]:
    def look() -> list[Any]:
        hooks = ("_forward_hooks", "_forward_pre_hooks")
        return [
            (type(m), sorted(vars(m)), [len(getattr(m, name)) for name in hooks])
            for m in model.modules()
        ]

    before = look()
    yield
    assert look() == before


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_model_runs_compiled_without_hooks_and_eagerly_with_them(
    tokens: torch.Tensor, whole: bool
) -> None:
    model = tiny_llama().requires_grad_(False)
    bridge = TransformerBridge(model)
    plain = bridge(tokens)
    expected = {n: bridge.run_with_hooks(tokens, fwd_hooks=[(n, double)]) for n in NAMES}
    calls: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            calls.append(1)
            return graph.forward(*args)

        return run

    for part in [model] if whole else model.model.layers:
        part.compile(backend=backend)
    try:
        for _ in range(2):
            calls.clear()
            torch.testing.assert_close(bridge(tokens), plain, atol=1e-4, rtol=1e-4)
            assert calls
            calls.clear()
            for name, edited in expected.items():
                made = bridge.run_with_hooks(tokens, fwd_hooks=[(name, double)])
                torch.testing.assert_close(made, edited, atol=1e-5, rtol=1e-4)
            _, cache = bridge.run_with_cache(tokens)
            assert set(cache) == set(bridge.select_names())
            assert not calls
    finally:
        torch._dynamo.reset()


def double(value: torch.Tensor, hook: Any) -> torch.Tensor:
    return value * 2


def test_a_model_in_half_precision(tokens: torch.Tensor) -> None:
    bridge = TransformerBridge(tiny_llama(dtype=torch.bfloat16).requires_grad_(False))
    precise = TransformerBridge(tiny_llama().to(torch.bfloat16).float().requires_grad_(False))
    logits, cache = bridge.run_with_cache(tokens)
    _, expected = precise.run_with_cache(tokens)
    assert torch.equal(logits, bridge(tokens))
    assert logits.dtype == torch.bfloat16
    for name, value in cache.items():
        if value.is_floating_point() and "scores" not in name:
            scale = float(expected[name].abs().max())
            assert float((value.float() - expected[name]).abs().max()) < 0.1 * scale, name
    hold_to(bridge, tokens, tolerance=3e-2)


def test_a_model_of_four_bits(tokens: torch.Tensor, tmp_path: Path) -> None:
    widths = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4}
    tiny_llama(**widths).save_pretrained(tmp_path)
    quantized = LlamaForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    bridge = TransformerBridge(quantized)
    assert type(bridge.blocks[0].mlp.out.original_component).__name__ == "Linear4bit"
    with torch.no_grad():
        hold_to(bridge, tokens)
        with pytest.raises(ArchitectureError, match="quantisation"):
            bridge.run_with_cache(tokens, names_filter=("result", 0))
