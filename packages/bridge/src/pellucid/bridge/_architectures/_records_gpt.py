"""GPT-2 and its contemporaries: fused projections, an ungated MLP, positions of every kind."""

import dataclasses
from types import MappingProxyType

from pellucid.bridge._architectures._record import Attention, Block, Mlp, describe_decoder

_PARTS = MappingProxyType(
    {"embed": "transformer.wte", "ln_final": "transformer.ln_f", "unembed": "lm_head"}
)
_WORD_PARTS = MappingProxyType({**_PARTS, "embed": "transformer.word_embeddings"})
# Megatron's names, which others took over.
_WIDE_MLP = Mlp(path="mlp", in_="dense_h_to_4h", out="dense_4h_to_h")
_WIDE_BLOCK = Block(ln1="input_layernorm", ln2="post_attention_layernorm", mlp=_WIDE_MLP)

GPT2 = describe_decoder(
    "GPT2LMHeadModel",
    parts={**_PARTS, "pos_embed": "transformer.wpe"},
    path="transformer.h",
    block=Block(
        ln1="ln_1",
        ln2="ln_2",
        attn=Attention(path="attn", qkv="c_attn", o="c_proj"),
        mlp=Mlp(path="mlp", in_="c_fc", out="c_proj"),
    ),
)
_GPT2_BLOCK = GPT2.stacks[0].block
GPT_BIGCODE = describe_decoder(
    "GPTBigCodeForCausalLM",
    parts=GPT2.parts,
    path="transformer.h",
    # One key head for all queries or one for each: a group either way.
    block=dataclasses.replace(
        _GPT2_BLOCK, attn=Attention(path="attn", qkv="c_attn", fusion="groups", o="c_proj")
    ),
)
GPT_NEO = describe_decoder(
    "GPTNeoForCausalLM",
    parts=GPT2.parts,
    path="transformer.h",
    block=dataclasses.replace(
        _GPT2_BLOCK,
        attn=Attention(
            path="attn",
            q="attention.q_proj",
            k="attention.k_proj",
            v="attention.v_proj",
            o="attention.out_proj",
        ),
    ),
)
GPTJ = describe_decoder(
    "GPTJForCausalLM",
    parts=_PARTS,
    path="transformer.h",
    block=Block(
        ln1="ln_1",
        attn=Attention(path="attn", q="q_proj", k="k_proj", v="v_proj", o="out_proj"),
        mlp=Mlp(path="mlp", in_="fc_in", out="fc_out"),
        is_parallel=True,
    ),
)
CODEGEN = describe_decoder(
    "CodeGenForCausalLM",
    parts=_PARTS,
    path="transformer.h",
    block=dataclasses.replace(
        GPTJ.stacks[0].block,
        attn=Attention(path="attn", qkv="qkv_proj", fusion="partitions", o="out_proj"),
    ),
)
GPT_NEOX = describe_decoder(
    "GPTNeoXForCausalLM",
    parts={
        "embed": "gpt_neox.embed_in",
        "rotary_emb": "gpt_neox.rotary_emb",
        "ln_final": "gpt_neox.final_layer_norm",
        "unembed": "lm_head",
    },
    path="gpt_neox.layers",
    block=dataclasses.replace(
        _WIDE_BLOCK,
        attn=Attention(path="attention", qkv="query_key_value", fusion="heads", o="dense"),
        is_parallel="use_parallel_residual",
    ),
)
OPT = describe_decoder(
    "OPTForCausalLM",
    parts={
        "embed": "model.decoder.embed_tokens",
        "pos_embed": "model.decoder.embed_positions",
        "ln_final": "model.decoder.final_layer_norm",
        "unembed": "lm_head",
    },
    path="model.decoder.layers",
    block=Block(
        ln1="self_attn_layer_norm",
        ln2="final_layer_norm",
        attn=Attention(path="self_attn", q="q_proj", k="k_proj", v="v_proj", o="out_proj"),
        mlp=Mlp(path="", in_="fc1", out="fc2", is_flat=True),
    ),
)
BLOOM = describe_decoder(
    "BloomForCausalLM",
    parts={**_WORD_PARTS, "embed_ln": "transformer.word_embeddings_layernorm"},
    path="transformer.h",
    block=dataclasses.replace(
        _WIDE_BLOCK,
        attn=Attention(
            path="self_attention",
            qkv="query_key_value",
            fusion="heads",
            o="dense",
            adds_residual=True,
        ),
        mlp=dataclasses.replace(_WIDE_MLP, adds_residual=True),
    ),
)
FALCON = describe_decoder(
    "FalconForCausalLM",
    parts={**_WORD_PARTS, "rotary_emb": "transformer.rotary_emb"},
    path="transformer.h",
    block=Block(
        ln1="ln_attn|input_layernorm",
        ln2="ln_mlp|post_attention_layernorm",
        attn=Attention(path="self_attention", qkv="query_key_value", fusion="groups", o="dense"),
        mlp=_WIDE_MLP,
        is_parallel="parallel_attn",
    ),
    writes_in_place=True,
)
MPT = describe_decoder(
    "MptForCausalLM",
    parts={**_PARTS, "ln_final": "transformer.norm_f"},
    path="transformer.blocks",
    block=Block(
        ln1="norm_1",
        ln2="norm_2",
        attn=Attention(path="attn", qkv="Wqkv", o="out_proj"),
        mlp=Mlp(path="ffn", in_="up_proj", out="down_proj", adds_residual=True),
    ),
)
GPT_RECORDS = (GPT2, GPT_BIGCODE, GPT_NEO, GPTJ, CODEGEN, GPT_NEOX, OPT, BLOOM, FALCON, MPT)
