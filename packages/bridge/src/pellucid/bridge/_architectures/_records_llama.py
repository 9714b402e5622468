"""Llama and what descends from it: rotary positions, mostly a gated MLP, projections apart."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from pellucid.bridge._architectures._record import (
    Architecture,
    Attention,
    Block,
    Mlp,
    describe_decoder,
)

LLAMA_PARTS: Mapping[str, str] = MappingProxyType(
    {
        "embed": "model.embed_tokens",
        "rotary_emb": "model.rotary_emb",
        "ln_final": "model.norm",
        "unembed": "lm_head",
    }
)
LLAMA_ATTENTION = Attention(
    path="self_attn",
    q="q_proj",
    k="k_proj",
    v="v_proj",
    o="o_proj",
    q_norm="q_norm",
    k_norm="k_norm",
)
LLAMA_MLP = Mlp(path="mlp", in_="up_proj", gate="gate_proj", out="down_proj")
LLAMA_BLOCK = Block(
    ln1="input_layernorm", ln2="post_attention_layernorm", attn=LLAMA_ATTENTION, mlp=LLAMA_MLP
)


def describe_llama(*classes: str, block: Block = LLAMA_BLOCK) -> Architecture:
    """Return a record of classes whose parts stand where those of Llama stand.

    Args:
        *classes: Their names.
        block: What a block is.
    """
    return describe_decoder(*classes, parts=LLAMA_PARTS, path="model.layers", block=block)


LLAMA = describe_llama(
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
    "OlmoForCausalLM",
)
LLAVA = describe_decoder(
    "LlavaForConditionalGeneration",
    parts={n: p.replace("model.", "model.language_model.") for n, p in LLAMA_PARTS.items()},
    path="model.language_model.layers",
    block=LLAMA_BLOCK,
)
GEMMA2 = describe_llama(
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    block=Block(
        ln1="input_layernorm",
        ln1_post="post_attention_layernorm",
        ln2="pre_feedforward_layernorm",
        ln2_post="post_feedforward_layernorm",
        attn=dataclasses.replace(LLAMA_ATTENTION, heads_first=True),
        mlp=LLAMA_MLP,
    ),
)
OLMO2 = describe_llama(
    "Olmo2ForCausalLM",
    "Olmo3ForCausalLM",
    block=Block(
        ln1_post="post_attention_layernorm",
        ln2_post="post_feedforward_layernorm",
        attn=LLAMA_ATTENTION,
        mlp=LLAMA_MLP,
    ),
)
PHI3 = describe_llama(
    "Phi3ForCausalLM",
    block=dataclasses.replace(
        LLAMA_BLOCK,
        attn=Attention(path="self_attn", qkv="qkv_proj", o="o_proj"),
        mlp=Mlp(path="mlp", gate_in="gate_up_proj", out="down_proj"),
    ),
)
GRANITE = describe_llama(
    "GraniteForCausalLM",
    block=dataclasses.replace(LLAMA_BLOCK, multiplier="residual_multiplier"),
)
COHERE = describe_llama(
    "CohereForCausalLM",
    "Cohere2ForCausalLM",
    block=Block(ln1="input_layernorm", attn=LLAMA_ATTENTION, mlp=LLAMA_MLP, is_parallel=True),
)
STABLELM = describe_llama(
    "StableLmForCausalLM",
    block=dataclasses.replace(
        LLAMA_BLOCK,
        attn=dataclasses.replace(
            LLAMA_ATTENTION, q_norm="q_layernorm", k_norm="k_layernorm", heads_first=True
        ),
        is_parallel="use_parallel_residual",
    ),
)
STARCODER2 = describe_llama(
    "Starcoder2ForCausalLM",
    block=dataclasses.replace(LLAMA_BLOCK, mlp=Mlp(path="mlp", in_="c_fc", out="c_proj")),
)
PHI = describe_decoder(
    "PhiForCausalLM",
    parts={**LLAMA_PARTS, "ln_final": "model.final_layernorm"},
    path="model.layers",
    block=Block(
        ln1="input_layernorm",
        attn=dataclasses.replace(
            LLAMA_ATTENTION,
            o="dense",
            q_norm="q_layernorm",
            k_norm="k_layernorm",
            heads_first=True,
        ),
        mlp=Mlp(path="mlp", in_="fc1", out="fc2"),
        is_parallel=True,
    ),
)
LLAMA_RECORDS = (LLAMA, LLAVA, GEMMA2, OLMO2, PHI3, GRANITE, COHERE, STABLELM, STARCODER2, PHI)
