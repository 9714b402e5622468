"""Bridges from folders, from models in memory, from configurations, and from other modules."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pellucid.bridge import (
    Architecture,
    Block,
    Stack,
    TransformerBridge,
    TransformerBridgeConfig,
    build_bridge_from_module,
    infer_architecture,
)
from pellucid.bridge._model import _boot
from pellucid.core import PellucidError
from pellucid.testing import tiny_llama

NATIVE: dict[str, Any] = {
    "d_model": 16, "n_layers": 2, "n_heads": 4, "d_vocab": 30, "n_ctx": 32, "seed": 0,
}  # fmt: skip
KINDS: list[dict[str, Any]] = [
    {},
    {"normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu", "n_key_value_heads": 2},
    {"normalization_type": "LNPre", "positional_embedding_type": "rotary", "rotary_dim": 2},
    {"normalization_type": "RMSPre", "attn_only": True},
    {"normalization_type": None, "act_fn": "solu_ln", "parallel_attn_mlp": True},
    {"attn_scores_soft_cap": 3.0, "output_logits_soft_cap": 2.0, "final_rms": True},
    {"positional_embedding_type": "rotary", "window_size": 2, "init_mode": "xavier_normal"},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind) or "plain")
def test_native_models_are_hooked_like_any(kind: dict[str, Any]) -> None:
    bridge = TransformerBridge.boot_native({**NATIVE, **kind})
    tokens = torch.arange(6)[None]
    logits, cache = bridge.run_with_cache(tokens)
    torch.testing.assert_close(logits, bridge.original_model(tokens).logits)
    for layer in range(2):
        total = cache["resid_pre", layer] + cache["attn_out", layer]
        total = total if kind.get("attn_only") else total + cache["mlp_out", layer]
        torch.testing.assert_close(total, cache["resid_post", layer])
        pattern = cache["pattern", layer]
        torch.testing.assert_close(pattern.sum(-1), torch.ones(1, 4, 6))
        assert not pattern.triu(1).any()
    for name in ("pattern", "v"):
        edit = [((name, 0), lambda value, hook: value * 0)]
        assert not torch.allclose(bridge.run_with_hooks(tokens, fwd_hooks=edit), logits)
    made = bridge.generate(tokens, 3, do_sample=False, stop_at_eos=False)
    assert torch.equal(made[:, 6], logits[:, -1].argmax(-1))
    assert bridge.cfg.output_logits_soft_cap < 0 or logits.abs().max() <= 2.0


def test_a_seed_makes_a_native_model_and_leaves_the_callers_generator_alone() -> None:
    config = TransformerBridgeConfig(**NATIVE)
    state = torch.get_rng_state()
    first, second = (TransformerBridge.boot_native(config) for _ in range(2))
    other = TransformerBridge.boot_native({**NATIVE, "seed": 1})
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.embed.weight, second.embed.weight)
    assert not torch.equal(first.embed.weight, other.embed.weight)
    assert config == TransformerBridgeConfig(**NATIVE)
    with torch.no_grad():
        first.embed.original_component.weight.zero_()
    first.init_weights()
    assert torch.equal(first.embed.weight, second.embed.weight)


@pytest.mark.parametrize(
    ("field", "value"),
    [("normalization_type", "XX"), ("act_fn", "sine"), ("init_mode", "x"), ("d_vocab", -1)],
)
def test_native_configurations_that_mean_nothing_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        TransformerBridge.boot_native({**NATIVE, field: value})
    with pytest.raises(ValueError, match="unknown fields"):
        TransformerBridge.boot_native({**NATIVE, "nonsense": 1})


def test_a_folder_is_loaded(tmp_path: Path, tokenizer: Any, tokens: torch.Tensor) -> None:
    model = tiny_llama()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path))
    torch.testing.assert_close(bridge(tokens), model(tokens).logits)
    assert bridge.to_string(bridge.to_tokens("Hi.", prepend_bos=False)[0]) == "Hi."
    half = TransformerBridge.boot_transformers(
        str(tmp_path), dtype=torch.bfloat16, attn_implementation="eager", n_ctx=64
    )
    assert half.original_model.dtype == torch.bfloat16
    assert half.original_model.config._attn_implementation == "eager"
    assert half.cfg.n_ctx == 64
    state = torch.get_rng_state()
    random = TransformerBridge.boot_transformers(str(tmp_path), load_weights=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(random(tokens), bridge(tokens))
    report = TransformerBridge.check_model_support(str(tmp_path))
    assert (report["is_supported"], report["architecture_id"]) == (True, "LlamaForCausalLM")
    missing = TransformerBridge.check_model_support(str(tmp_path / "nothing"))
    assert missing.keys() == report.keys()
    assert not missing["is_supported"]


def test_a_model_that_a_package_has_at_hand_is_taken_by_name(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any, tokens: torch.Tensor
) -> None:
    class Shelf:
        def load(self, name: str) -> Any:
            assert name == "tiny"
            return tiny_llama(), tokenizer

    monkeypatch.setattr(_boot, "find_model_source", lambda spec: (Shelf(), spec.split(":")[1]))
    bridge = TransformerBridge.boot_transformers("shelf:tiny", dtype=torch.float64)
    assert bridge.tokenizer is tokenizer
    expected = tiny_llama().double()(tokens).logits
    torch.testing.assert_close(bridge(tokens), expected, atol=0, rtol=0)
    with pytest.raises(ValueError, match="revision is for loading"):
        TransformerBridge.boot_transformers("shelf:tiny", revision="main")


def test_a_model_in_memory_is_given_back_as_it_was(unchanged: Any, tokens: torch.Tensor) -> None:
    model = tiny_llama()
    with unchanged(model):
        bridge = TransformerBridge.boot_transformers(hf_model=model, attn_implementation="eager")
        bridge.add_perma_hook("hook_embed", lambda value, hook: value * 0)
        bridge(tokens)
        assert bridge.restore() is model
        assert bridge.list_hooks() == {}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "model_name"),
        ({"model_name": "x", "device": "cpu", "device_map": "auto"}, "exclude"),
        ({"model_name": "x", "revision": "a", "checkpoint_index": 1}, "exclude"),
        ({"model_name": "x", "checkpoint_index": 1}, "no checkpoints"),
        ({"model_name": "EleutherAI/pythia-70m", "checkpoint_value": 3}, "nearest is"),
        ({"model_name": "x", "n_ctx": 0}, "n_ctx"),
        ({"model_name": "x", "n_devices": 0}, "n_devices"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(options: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        TransformerBridge.boot_transformers(**options)


@pytest.mark.parametrize("options", [{"dtype": torch.float64}, {"n_ctx": 3}, {"device": "meta"}])
def test_a_model_in_memory_is_not_converted(options: Any) -> None:
    with pytest.raises(ValueError, match="hf_model"):
        TransformerBridge.boot_transformers(hf_model=tiny_llama(), **options)


class Foreign(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(9, 8)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(2))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        stream = self.table(input_ids)
        for layer in self.layers:
            stream = layer(stream)
        return stream


def test_a_module_that_is_not_of_transformers() -> None:
    record = Architecture(
        classes=("Foreign",),
        parts={"embed": "table"},
        stacks=(Stack(path="layers", block=Block()),),
    )
    model, tokens = Foreign(), torch.arange(4)[None]
    bridge = build_bridge_from_module(model, record, tl_config={"d_model": 8, "n_layers": 2})
    output, cache = bridge.run_with_cache(tokens)
    torch.testing.assert_close(output, model(tokens))
    torch.testing.assert_close(cache["resid_post", -1], output)
    with pytest.raises(ValueError, match="no config"):
        build_bridge_from_module(model, record)
    with pytest.raises(ValueError, match="no record"):
        build_bridge_from_module(model, "Nothing", tl_config={"d_model": 8, "n_layers": 2})


class Unrunnable(Foreign):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers[0](pixels)


def test_a_module_that_nobody_has_described_is_looked_through() -> None:
    model, tokens = Foreign(), torch.arange(4)[None]
    bridge = build_bridge_from_module(model, tl_config={"d_model": 8, "n_layers": 2})
    output, cache = bridge.run_with_cache(tokens)
    torch.testing.assert_close(output, model(tokens))
    torch.testing.assert_close(cache["hook_embed"], model.table(tokens))
    torch.testing.assert_close(cache["resid_pre", 1], model.layers[0](model.table(tokens)))


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        (Foreign(), {}, "Foreign has no config. Pass one: build_bridge_from_module"),
        (Foreign(), {"hf_config": SimpleNamespace()}, "does not say how wide"),
        (Unrunnable(), {"tl_config": {"d_model": 8, "n_layers": 2}}, "Unrunnable does not run on"),
        (torch.nn.Linear(2, 2), {"tl_config": {"d_model": 2, "n_layers": 1}}, "Linear does not"),
        (torch.nn.ReLU(), {"tl_config": {"d_model": 2, "n_layers": 1}}, "ReLU does not run"),
    ],
)
def test_a_module_that_cannot_be_looked_into_is_refused(
    model: Any, options: Any, reason: str
) -> None:
    with pytest.raises(PellucidError, match=reason):
        build_bridge_from_module(model, **options)


@pytest.mark.parametrize("look", [TransformerBridge, infer_architecture])
def test_a_module_without_a_config_is_refused_everywhere(look: Any) -> None:
    with pytest.raises(PellucidError, match="Foreign has no config"):
        look(Foreign())
    with pytest.raises(PellucidError, match="Foreign has no config"):
        TransformerBridge.boot_transformers(hf_model=Foreign())


def test_well_known_models_are_listed() -> None:
    llamas = TransformerBridge.list_supported_models("LlamaForCausalLM", verified_only=True)
    assert set(llamas) < set(TransformerBridge.list_supported_models())
    assert TransformerBridge.check_model_support(llamas[0])["verified"]


def test_a_model_in_bfloat16(tokens: torch.Tensor) -> None:
    bridge = TransformerBridge(tiny_llama(dtype=torch.bfloat16))
    _, cache = bridge.run_with_cache(tokens)
    total = cache["resid_pre", 0] + cache["attn_out", 0]
    assert torch.equal(total, cache["resid_mid", 0])
    # Softmax is in float32, as the model has it.
    assert cache["pattern", 0].dtype == torch.float32
