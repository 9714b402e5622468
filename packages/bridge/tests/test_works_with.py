"""Models that others have prepared: spread by accelerate, wrapped by peft, compiled by torch."""

from typing import Any

import pytest
import torch

from pellucid.bridge import TransformerBridge
from pellucid.testing import tiny_llama

NAMES = ["blocks.0.hook_resid_mid", "blocks.1.attn.hook_pattern", "blocks.1.mlp.hook_post"]


def hold_to(bridge: TransformerBridge, tokens: torch.Tensor) -> None:
    logits, cache = bridge.run_with_cache(tokens, names_filter=NAMES)
    torch.testing.assert_close(logits, bridge(tokens), atol=1e-4, rtol=1e-4)
    assert len(cache) == 3
    for name in NAMES:
        edited = bridge.run_with_hooks(tokens, fwd_hooks=[(name, lambda v, hook: v * 0)])
        assert not torch.allclose(edited, logits, atol=1e-3)
    residual = bridge(tokens, stop_at_layer=1)
    again = bridge(residual, start_at_layer=1)
    torch.testing.assert_close(again, logits, atol=1e-4, rtol=1e-4)


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


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_a_model_that_runs_compiled_without_hooks(tokens: torch.Tensor) -> None:
    model = tiny_llama()
    bridge = TransformerBridge(model)
    plain = bridge(tokens)
    model.compile(backend="eager")
    try:
        torch.testing.assert_close(bridge(tokens), plain, atol=1e-4, rtol=1e-4)
        _, cache = bridge.run_with_cache(tokens, names_filter=NAMES)
        assert set(cache) == {bridge.explain(name).name for name in NAMES}
    finally:
        torch._dynamo.reset()
