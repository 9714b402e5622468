"""Configurations of tiny models, whatever the architecture calls its sizes."""

_SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner"), 56),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 56),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("head_dim", "d_kv", "v_head_dim", "qk_rope_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 16),
    **dict.fromkeys(("state_size", "chunk_size"), 8),
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "num_experts_per_tok": 2,
    "rotary_dim": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "qk_nope_head_dim": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "image_size": 16,
    "patch_size": 8,
}
_KEPT = {"vocab_size", "pad_token_id", "bos_token_id", "eos_token_id"}


def make_config(kind, more, base=None, sizes=()):
    all_sizes = {**_SIZES, **dict(sizes)}
    base = kind() if base is None else base
    chosen = {
        name: size
        for name, size in all_sizes.items()
        if not isinstance(getattr(kind, name, None), property)
        and (getattr(base, name, None) is not None)
    }
    for name in getattr(kind, "sub_configs", {}):
        inner = getattr(base, name)
        chosen[name] = make_config(type(inner), {}, sizes=sizes).to_dict()
    return kind(**{**chosen, **more})
