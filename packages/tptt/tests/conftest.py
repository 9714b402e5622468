"""Inputs such as a layer makes: keys of norm 1, gates between 0 and 1."""

import pytest
import torch
from torch.nn.functional import normalize, silu


def draw_inputs(batch=2, heads=2, kv_heads=2, pos=9, width=4, *, seed=0, head_gate=False):
    """Queries, keys, values and gates in float64."""
    generator = torch.Generator().manual_seed(seed)

    def noise(n_heads, size):
        return torch.randn(batch, n_heads, pos, size, generator=generator, dtype=torch.float64)

    return (
        normalize(silu(noise(heads, width)), dim=-1),
        normalize(silu(noise(kv_heads, width)), dim=-1),
        noise(kv_heads, width),
        torch.sigmoid(2 * noise(kv_heads, 1 if head_gate else width)),
    )


@pytest.fixture(scope="session")
def draw():
    return draw_inputs


_SIZES = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_ARCHITECTURES = {
    "mistral": ("Mistral", {"sliding_window": 7}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "gemma": ("Gemma", {"head_dim": 8}),
    "gemma2": ("Gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 7}),
    "gemma3": (
        "Gemma3",
        {
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 7,
        },
    ),
    "phi3": ("Phi3", {}),
    "olmo2": ("Olmo2", {}),
    "gpt_neox": ("GPTNeoX", {}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
}
LM_NAMES = ("llama", "gpt2", *_ARCHITECTURES)


def build_lm(name, **options):
    """A tiny causal language model of transformers, every weight random."""
    import transformers

    from pellucid.testing import tiny_gpt2, tiny_llama

    if name in ("llama", "gpt2"):
        return {"llama": tiny_llama, "gpt2": tiny_gpt2}[name](**options)
    family, own = _ARCHITECTURES[name]
    config_name = f"{family}TextConfig" if family == "Gemma3" else f"{family}Config"
    config = getattr(transformers, config_name)(**_SIZES, **own, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config)
        with torch.no_grad():  # norms of 1 and biases of 0 would hide mistakes
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn(weight.shape))
    return model.eval()


@pytest.fixture(scope="session", params=LM_NAMES)
def lm_name(request):
    """Each architecture in turn."""
    return request.param


@pytest.fixture(scope="session")
def make_lm():
    return build_lm


@pytest.fixture(scope="session")
def prompt():
    return torch.randint(5, 300, (2, 11), generator=torch.Generator().manual_seed(0))
