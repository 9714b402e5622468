"""GPT-2 and its contemporaries: fused projections, an ungated MLP, positions of every kind."""

from types import MappingProxyType

from pellucid.bridge._architectures._record import Architecture, Attention, Block, Mlp, Stack

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
GPT_BIGCODE = Architecture(
    classes=("GPTBigCodeForCausalLM",),
    parts=GPT2.parts,
    stacks=(
        Stack(
            path="transformer.h",
            block=Block(
                ln1="ln_1",
                ln2="ln_2",
                # One key head for all queries or one for each: a group either way.
                attn=Attention(path="attn", qkv="c_attn", fusion="groups", o="c_proj"),
                mlp=Mlp(path="mlp", in_="c_fc", out="c_proj"),
            ),
        ),
    ),
)
GPT_NEO = Architecture(
    classes=("GPTNeoForCausalLM",),
    parts=GPT2.parts,
    stacks=(
        Stack(
            path="transformer.h",
            block=Block(
                ln1="ln_1",
                ln2="ln_2",
                attn=Attention(
                    path="attn",
                    q="attention.q_proj",
                    k="attention.k_proj",
                    v="attention.v_proj",
                    o="attention.out_proj",
                ),
                mlp=Mlp(path="mlp", in_="c_fc", out="c_proj"),
            ),
        ),
    ),
)
GPTJ = Architecture(
    classes=("GPTJForCausalLM",),
    parts=MappingProxyType(
        {"embed": "transformer.wte", "ln_final": "transformer.ln_f", "unembed": "lm_head"}
    ),
    stacks=(
        Stack(
            path="transformer.h",
            block=Block(
                ln1="ln_1",
                attn=Attention(path="attn", q="q_proj", k="k_proj", v="v_proj", o="out_proj"),
                mlp=Mlp(path="mlp", in_="fc_in", out="fc_out"),
                is_parallel=True,
            ),
        ),
    ),
)
CODEGEN = Architecture(
    classes=("CodeGenForCausalLM",),
    parts=GPTJ.parts,
    stacks=(
        Stack(
            path="transformer.h",
            block=Block(
                ln1="ln_1",
                attn=Attention(path="attn", qkv="qkv_proj", fusion="partitions", o="out_proj"),
                mlp=Mlp(path="mlp", in_="fc_in", out="fc_out"),
                is_parallel=True,
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
OPT = Architecture(
    classes=("OPTForCausalLM",),
    parts=MappingProxyType(
        {
            "embed": "model.decoder.embed_tokens",
            "pos_embed": "model.decoder.embed_positions",
            "ln_final": "model.decoder.final_layer_norm",
            "unembed": "lm_head",
        }
    ),
    stacks=(
        Stack(
            path="model.decoder.layers",
            block=Block(
                ln1="self_attn_layer_norm",
                ln2="final_layer_norm",
                attn=Attention(path="self_attn", q="q_proj", k="k_proj", v="v_proj", o="out_proj"),
                mlp=Mlp(path="", in_="fc1", out="fc2", is_flat=True),
            ),
        ),
    ),
)
BLOOM = Architecture(
    classes=("BloomForCausalLM",),
    parts=MappingProxyType(
        {
            "embed": "transformer.word_embeddings",
            "embed_ln": "transformer.word_embeddings_layernorm",
            "ln_final": "transformer.ln_f",
            "unembed": "lm_head",
        }
    ),
    stacks=(
        Stack(
            path="transformer.h",
            block=Block(
                ln1="input_layernorm",
                ln2="post_attention_layernorm",
                attn=Attention(
                    path="self_attention",
                    qkv="query_key_value",
                    fusion="heads",
                    o="dense",
                    adds_residual=True,
                ),
                mlp=Mlp(path="mlp", in_="dense_h_to_4h", out="dense_4h_to_h", adds_residual=True),
            ),
        ),
    ),
)
FALCON = Architecture(
    classes=("FalconForCausalLM",),
    parts=MappingProxyType(
        {
            "embed": "transformer.word_embeddings",
            "rotary_emb": "transformer.rotary_emb",
            "ln_final": "transformer.ln_f",
            "unembed": "lm_head",
        }
    ),
    stacks=(
        Stack(
            path="transformer.h",
            block=Block(
                ln1="ln_attn|input_layernorm",
                ln2="ln_mlp|post_attention_layernorm",
                attn=Attention(
                    path="self_attention", qkv="query_key_value", fusion="groups", o="dense"
                ),
                mlp=Mlp(path="mlp", in_="dense_h_to_4h", out="dense_4h_to_h"),
                is_parallel="parallel_attn",
            ),
        ),
    ),
    writes_in_place=True,
)
MPT = Architecture(
    classes=("MptForCausalLM",),
    parts=MappingProxyType(
        {"embed": "transformer.wte", "ln_final": "transformer.norm_f", "unembed": "lm_head"}
    ),
    stacks=(
        Stack(
            path="transformer.blocks",
            block=Block(
                ln1="norm_1",
                ln2="norm_2",
                attn=Attention(path="attn", qkv="Wqkv", o="out_proj"),
                mlp=Mlp(path="ffn", in_="up_proj", out="down_proj", adds_residual=True),
            ),
        ),
    ),
)
GPT_RECORDS = (GPT2, GPT_BIGCODE, GPT_NEO, GPTJ, CODEGEN, GPT_NEOX, OPT, BLOOM, FALCON, MPT)
