"""A tiny random model of every record, by case."""

import dataclasses
import functools

import torch
import transformers
from tiny_configs import make_config

from pellucid.bridge import TransformerBridge


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A model: a class, and what of its configuration is not as in all others."""

    name: str
    kind: str
    more: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        return self.name


def _case(kind, name=None, **more):
    return Case(name or kind, kind, tuple(more.items()))


# Where the classes of a record differ in nothing but their name, one stands for all.
CASES = [
    _case("LlamaForCausalLM"),
    _case("MistralForCausalLM", sliding_window=4),
    _case("Qwen2ForCausalLM"),
    _case("Qwen3ForCausalLM"),
    _case("GemmaForCausalLM"),
    _case("OlmoForCausalLM"),
    _case("LlavaForConditionalGeneration"),
    _case("Gemma2ForCausalLM", sliding_window=4),
    _case("Gemma3ForCausalLM"),
    _case("Olmo2ForCausalLM"),
    _case("Phi3ForCausalLM"),
    _case("GraniteForCausalLM", residual_multiplier=0.5, attention_multiplier=0.3),
    _case("CohereForCausalLM", use_qk_norm=True),
    _case("StableLmForCausalLM"),
    _case("StableLmForCausalLM", "StableLm parallel", use_parallel_residual=True),
    _case("StableLmForCausalLM", "StableLm with norms", qk_layernorm=True),
    _case("Starcoder2ForCausalLM"),
    _case("PhiForCausalLM"),
    _case("PhiForCausalLM", "Phi with norms", qk_layernorm=True),
    _case("GPT2LMHeadModel"),
    _case("GPTBigCodeForCausalLM"),
    _case("GPTBigCodeForCausalLM", "GPTBigCode many keys", multi_query=False),
    _case("GPTNeoForCausalLM", attention_types=[[["global", "local"], 1]], window_size=4),
    _case("GPTJForCausalLM"),
    _case("CodeGenForCausalLM"),
    _case("GPTNeoXForCausalLM"),
    _case("GPTNeoXForCausalLM", "GPTNeoX sequential", use_parallel_residual=False),
    _case("OPTForCausalLM", word_embed_proj_dim=32),
    _case("BloomForCausalLM"),
    _case("FalconForCausalLM"),
    _case("FalconForCausalLM", "Falcon 40B", new_decoder_architecture=True, num_kv_heads=2),
    _case(
        "FalconForCausalLM", "Falcon RW",
        alibi=True, multi_query=False, parallel_attn=False, bias=True,
    ),
    _case("MptForCausalLM"),
    _case("MixtralForCausalLM"),
    _case("Qwen2MoeForCausalLM", mlp_only_layers=[0]),
    _case("Qwen3MoeForCausalLM"),
    _case("GptOssForCausalLM"),
    _case("DeepseekV3ForCausalLM", num_key_value_heads=4),
    _case("DeepseekV3ForCausalLM", "DeepseekV3 lite", num_key_value_heads=4, q_lora_rank=None),
    _case(
        "Qwen3NextForCausalLM",
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=8, linear_value_head_dim=8,
        linear_num_key_heads=2, linear_num_value_heads=4,
    ),
    _case("MambaForCausalLM"),
    _case("Mamba2ForCausalLM", num_heads=8, n_groups=1),
    _case("BertForMaskedLM"),
    _case("BertLMHeadModel", is_decoder=True),
    _case("RobertaForMaskedLM"),
    _case("T5ForConditionalGeneration", decoder_start_token_id=0),
    _case("MT5ForConditionalGeneration"),
    _case("BartForConditionalGeneration"),
    _case("MarianMTModel"),
]  # fmt: skip


@functools.cache
def make_bridge(case):
    """Return a bridge that the tests of a session share: leave its model as it is."""
    return TransformerBridge(make_model(case).requires_grad_(False))


def make_model(case, **sizes):
    """Return a new model with random norms and biases."""
    kind = getattr(transformers, case.kind)
    more = dict(case.more)
    if "word_embed_proj_dim" in more and "hidden_size" in sizes:
        more["word_embed_proj_dim"] = sizes["hidden_size"]
    if case.kind == "Mamba2ForCausalLM":
        # Its inner width, twice that of the stream, is that of its heads.
        more["head_dim"] = sizes.get("hidden_size", 32) * 2 // more["num_heads"]
    torch.manual_seed(0)
    model = kind(make_config(kind.config_class, more, sizes=sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def make_inputs(bridge, **more):
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
    if bridge.original_model.config.is_encoder_decoder:
        more["decoder_input_ids"] = ids.flip(0)
    return ids, more


def find_case(kind):
    """Return the case of a name."""
    return next(case for case in CASES if case.name == kind)


def make_strong(case):
    """Return a model whose every weight shows in its predictions."""
    model = make_model(case)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(drawn * 0.25)
            else:
                parameter.add_(drawn * 0.2)
    return model.requires_grad_(False)


def look(model):
    """Return a model's state, which parameters hold it, and its configuration."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = {name: id(held) for name, held in model.named_parameters(remove_duplicate=False)}
    return state, parameters, model.config.to_dict()


def is_as_before(model, before):
    """Say whether a model looks as it did, to the bit."""
    state, *rest = look(model)
    same = state.keys() == before[0].keys()
    same = same and all(torch.equal(state[name], before[0][name]) for name in state)
    return same and rest == list(before[1:])
