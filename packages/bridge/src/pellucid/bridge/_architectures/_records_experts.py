"""Blocks whose MLP is a choice of experts, and attention by way of a latent."""

import dataclasses
from types import MappingProxyType

from pellucid.bridge._architectures._record import Attention, ExpertWeights, Mixer, Mlp
from pellucid.bridge._architectures._records_llama import (
    LLAMA_ATTENTION,
    LLAMA_BLOCK,
    describe_llama,
)

# Some layers of these are dense: they have the projections, all others router and experts.
_DENSE_OR_EXPERTS = Mlp(
    path="mlp",
    in_="up_proj",
    gate="gate_proj",
    out="down_proj",
    router="gate",
    experts="experts",
    expert_weights=ExpertWeights(),
    extra=MappingProxyType(
        {
            "shared_expert": "shared_expert",
            "shared_expert_gate": "shared_expert_gate",
            "shared_experts": "shared_experts",
        }
    ),
)
MIXTRAL = describe_llama(
    "MixtralForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3MoeForCausalLM",
    block=dataclasses.replace(LLAMA_BLOCK, mlp=_DENSE_OR_EXPERTS),
)
GPT_OSS = describe_llama(
    "GptOssForCausalLM",
    block=dataclasses.replace(
        LLAMA_BLOCK,
        mlp=Mlp(
            path="mlp",
            router="router",
            experts="experts",
            expert_weights=ExpertWeights(is_transposed=True, is_interleaved=True),
        ),
    ),
)
DEEPSEEK_V3 = describe_llama(
    "DeepseekV3ForCausalLM",
    block=dataclasses.replace(
        LLAMA_BLOCK,
        attn=Attention(
            path="self_attn",
            q="q_b_proj|q_proj",
            kv="kv_b_proj",
            o="o_proj",
            extra=MappingProxyType(
                {
                    "q_a_proj": "q_a_proj",
                    "q_a_layernorm": "q_a_layernorm",
                    "kv_a_proj_with_mqa": "kv_a_proj_with_mqa",
                    "kv_a_layernorm": "kv_a_layernorm",
                }
            ),
        ),
        mlp=_DENSE_OR_EXPERTS,
    ),
)
QWEN3_NEXT = describe_llama(
    "Qwen3NextForCausalLM",
    block=dataclasses.replace(
        LLAMA_BLOCK,
        attn=LLAMA_ATTENTION,
        mlp=_DENSE_OR_EXPERTS,
        mixers=(
            Mixer(
                path="linear_attn",
                parts=MappingProxyType(
                    {
                        "in_proj_qkvz": "in_proj_qkvz",
                        "in_proj_ba": "in_proj_ba",
                        "norm": "norm",
                        "out_proj": "out_proj",
                    }
                ),
            ),
        ),
    ),
)
EXPERT_RECORDS = (MIXTRAL, GPT_OSS, DEEPSEEK_V3, QWEN3_NEXT)
