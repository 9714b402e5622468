"""Records of the architectures that people use most."""

from collections.abc import Mapping
from types import MappingProxyType

from pellucid.bridge._record import Architecture, Attention, Block, Mlp, Stack

_LLAMA_PARTS: Mapping[str, str] = MappingProxyType(
    {
        "embed": "model.embed_tokens",
        "rotary_emb": "model.rotary_emb",
        "ln_final": "model.norm",
        "unembed": "lm_head",
    }
)
_LLAMA_ATTENTION = Attention(
    path="self_attn",
    q="q_proj",
    k="k_proj",
    v="v_proj",
    o="o_proj",
    q_norm="q_norm",
    k_norm="k_norm",
)
_LLAMA_MLP = Mlp(path="mlp", in_="up_proj", gate="gate_proj", out="down_proj")
_LLAMA_BLOCK = Block(
    ln1="input_layernorm", ln2="post_attention_layernorm", attn=_LLAMA_ATTENTION, mlp=_LLAMA_MLP
)

LLAMA = Architecture(
    classes=(
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "GemmaForCausalLM",
    ),
    parts=_LLAMA_PARTS,
    stacks=(Stack(path="model.layers", block=_LLAMA_BLOCK),),
)
GEMMA2 = Architecture(
    classes=("Gemma2ForCausalLM", "Gemma3ForCausalLM"),
    parts=_LLAMA_PARTS,
    stacks=(
        Stack(
            path="model.layers",
            block=Block(
                ln1="input_layernorm",
                ln1_post="post_attention_layernorm",
                ln2="pre_feedforward_layernorm",
                ln2_post="post_feedforward_layernorm",
                attn=_LLAMA_ATTENTION,
                mlp=_LLAMA_MLP,
            ),
        ),
    ),
)
GPT2 = Architecture(
    classes=("GPT2LMHeadModel",),
    parts=MappingProxyType(
        {
            "embed": "transformer.wte",
            "pos_embed": "transformer.wpe",
            "ln_final": "transformer.ln_f",
            "unembed": "lm_head",
        }
    ),
    stacks=(
        Stack(
            path="transformer.h",
            block=Block(
                ln1="ln_1",
                ln2="ln_2",
                attn=Attention(path="attn", qkv="c_attn", o="c_proj"),
                mlp=Mlp(path="mlp", in_="c_fc", out="c_proj"),
            ),
        ),
    ),
)
GPT_NEOX = Architecture(
    classes=("GPTNeoXForCausalLM",),
    parts=MappingProxyType(
        {
            "embed": "gpt_neox.embed_in",
            "rotary_emb": "gpt_neox.rotary_emb",
            "ln_final": "gpt_neox.final_layer_norm",
            "unembed": "lm_head",
        }
    ),
    stacks=(
        Stack(
            path="gpt_neox.layers",
            block=Block(
                ln1="input_layernorm",
                ln2="post_attention_layernorm",
                attn=Attention(path="attention", qkv="query_key_value", fusion="heads", o="dense"),
                mlp=Mlp(path="mlp", in_="dense_h_to_4h", out="dense_4h_to_h"),
                is_parallel="use_parallel_residual",
            ),
        ),
    ),
)
RECORDS: tuple[Architecture, ...] = (LLAMA, GEMMA2, GPT2, GPT_NEOX)
