"""Encoders, and encoders with a decoder."""

from types import MappingProxyType

from pellucid.bridge._architectures._record import (
    Architecture,
    Attention,
    Block,
    Mlp,
    Stack,
    describe_decoder,
)

_BERT_BLOCK = Block(
    ln1_post="attention.output.LayerNorm",
    ln2_post="output.LayerNorm",
    attn=Attention(
        path="attention.self", q="query", k="key", v="value", o=".attention.output.dense"
    ),
    mlp=Mlp(path="", in_="intermediate.dense", out="output.dense"),
    is_post_norm=True,
)


def _describe_bert(prefix: str, unembed: str, *classes: str) -> Architecture:
    return describe_decoder(
        *classes,
        parts={
            "embed": f"{prefix}.embeddings.word_embeddings",
            "token_type_embed": f"{prefix}.embeddings.token_type_embeddings",
            "pos_embed": f"{prefix}.embeddings.position_embeddings",
            "embed_ln": f"{prefix}.embeddings.LayerNorm",
            "unembed": unembed,
        },
        path=f"{prefix}.encoder.layer",
        block=_BERT_BLOCK,
    )


BERT = _describe_bert(
    "bert", "cls.predictions.decoder", "BertForMaskedLM", "BertLMHeadModel", "BertForPreTraining"
)
ROBERTA = _describe_bert("roberta", "lm_head.decoder", "RobertaForMaskedLM", "RobertaForCausalLM")


def _describe_t5_block(*, has_cross: bool) -> Block:
    last = "layer.2" if has_cross else "layer.1"
    return Block(
        ln1="layer.0.layer_norm",
        ln2=f"{last}.layer_norm",
        ln_cross="layer.1.layer_norm" if has_cross else None,
        attn=Attention(path="layer.0.SelfAttention", q="q", k="k", v="v", o="o"),
        cross_attn=(
            Attention(path="layer.1.EncDecAttention", q="q", k="k", v="v", o="o")
            if has_cross
            else None
        ),
        mlp=Mlp(path=f"{last}.DenseReluDense", in_="wi|wi_1", gate="wi_0", out="wo"),
    )


T5 = Architecture(
    classes=("T5ForConditionalGeneration", "MT5ForConditionalGeneration"),
    parts=MappingProxyType(
        {
            "embed": "encoder.embed_tokens",
            "encoder_ln_final": "encoder.final_layer_norm",
            "decoder_embed": "decoder.embed_tokens",
            "decoder_ln_final": "decoder.final_layer_norm",
            "unembed": "lm_head",
        }
    ),
    stacks=(
        Stack(
            name="encoder_blocks", path="encoder.block", block=_describe_t5_block(has_cross=False)
        ),
        Stack(
            name="decoder_blocks", path="decoder.block", block=_describe_t5_block(has_cross=True)
        ),
    ),
)


def _describe_bart_block(*, has_cross: bool) -> Block:
    def attention(path: str) -> Attention:
        return Attention(path=path, q="q_proj", k="k_proj", v="v_proj", o="out_proj")

    return Block(
        ln1_post="self_attn_layer_norm",
        ln2_post="final_layer_norm",
        ln_cross="encoder_attn_layer_norm" if has_cross else None,
        attn=attention("self_attn"),
        cross_attn=attention("encoder_attn") if has_cross else None,
        mlp=Mlp(path="", in_="fc1", out="fc2"),
        is_post_norm=True,
    )


BART = Architecture(
    classes=("BartForConditionalGeneration",),
    parts=MappingProxyType(
        {
            "embed": "model.encoder.embed_tokens",
            "pos_embed": "model.encoder.embed_positions",
            "embed_ln": "model.encoder.layernorm_embedding",
            "decoder_embed": "model.decoder.embed_tokens",
            "decoder_pos_embed": "model.decoder.embed_positions",
            "decoder_embed_ln": "model.decoder.layernorm_embedding",
            "unembed": "lm_head",
        }
    ),
    stacks=(
        Stack(
            name="encoder_blocks",
            path="model.encoder.layers",
            block=_describe_bart_block(has_cross=False),
        ),
        Stack(
            name="decoder_blocks",
            path="model.decoder.layers",
            block=_describe_bart_block(has_cross=True),
        ),
    ),
)
MARIAN = Architecture(
    classes=("MarianMTModel",),
    parts=MappingProxyType(
        {name: path for name, path in BART.parts.items() if not name.endswith("embed_ln")}
    ),
    stacks=BART.stacks,
    # Sinusoidal positions are made from a shape.
    omits=("*pos_embed.hook_in",),
)
ENCODER_RECORDS = (BERT, ROBERTA, T5, BART, MARIAN)
