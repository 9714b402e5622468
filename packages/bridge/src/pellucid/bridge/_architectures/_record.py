"""What an architecture is, as data: where its parts are and how they are put together.

Paths are dotted, relative to the model for an `Architecture` and a `Stack`, to the block for a
`Block`, and to the part itself for what is inside attention, MLP and mixer; there, a dot at the
start means relative to the block. Bars stand between paths of which the first that exists is meant,
where releases of one architecture differ. A part that a block of a model does not have (no bias, no
post-norm, a mixer in place of attention) is left out silently for that block: hybrids are one
record.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

Fusion = Literal["spans", "heads", "groups", "partitions"]
"""How a fused projection arranges queries, keys and values along its output.

spans: one after another (GPT-2, Phi-3, MPT). heads: for each head its query, key and value
(GPT-NeoX, Bloom). groups: for each key head its queries, its key and its value (Falcon 40B).
partitions: four partitions, in each queries, values, keys (CodeGen).
"""

RouterItem = Literal["logits", "weights", "indices"]
"""What a router gives: a score for each expert, the weights of those chosen, which they are."""


def _nothing() -> Any:
    return dataclasses.field(default_factory=lambda: MappingProxyType[str, str]({}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """An attention module.

    Attributes:
        path: Relative to the block; empty if its projections are the block's own.
        q: Query projection; k, v likewise. None where they are fused.
        qkv: The fused projection.
        fusion: How it is fused.
        kv: The projection of a latent to each head's key and value, key first: DeepSeek.
        o: Output projection.
        q_norm: Norm of the queries, if there is one; k_norm likewise.
        heads_first: Whether these two take heads before positions: Gemma 3.
        adds_residual: Whether the module's output holds the residual stream already.
        extra: Further modules worth hooking, name to path.
    """

    path: str
    q: str | None = None
    k: str | None = None
    v: str | None = None
    qkv: str | None = None
    fusion: Fusion = "spans"
    kv: str | None = None
    o: str | None = None
    q_norm: str | None = None
    k_norm: str | None = None
    heads_first: bool = False
    adds_residual: bool = False
    extra: Mapping[str, str] = _nothing()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertWeights:
    """How experts keep their weights: as stacked parameters, or as modules of a list.

    Attributes:
        gate_in: Both halves of the projection to the hidden layer in one parameter; None where
            they are apart.
        in_: The projection to the hidden layer, where it is apart; of gated ones, the ungated half.
        gate: The gated half's projection, where it is apart.
        out: The projection back.
        is_transposed: Whether parameters are (expert, d_in, d_out), not (expert, d_out, d_in).
        is_interleaved: Whether gate and ungated half alternate in `gate_in`, gate first; else the
            gate is its first half.
        is_list: Whether the experts are modules of a list, and the names above lead to their
            projections; else they are parameters of one module, and their biases end in "_bias".
    """

    gate_in: str | None = "gate_up_proj"
    in_: str | None = None
    gate: str | None = None
    out: str = "down_proj"
    is_transposed: bool = False
    is_interleaved: bool = False
    is_list: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlp:
    """A feed-forward part, dense or of experts.

    Attributes:
        path: Relative to the block; empty if its layers are the block's own.
        in_: Projection to the hidden layer; of a gated one, the ungated half.
        gate: The gated half's projection, if there is one.
        gate_in: Both halves fused, gate first.
        out: Projection back.
        router: Chooses experts, if there are any.
        experts: The experts.
        expert_weights: How they keep their weights; None if that is for the module to say.
        router_gives: What the items are that the router returns.
        is_flat: Whether its layers take the positions of all samples in one row.
        adds_residual: Whether the module's output holds the residual stream already.
        extra: Further modules worth hooking, name to path.
    """

    path: str
    in_: str | None = None
    gate: str | None = None
    gate_in: str | None = None
    out: str | None = None
    router: str | None = None
    experts: str | None = None
    expert_weights: ExpertWeights | None = None
    router_gives: tuple[RouterItem | None, ...] = ("logits", "weights", "indices")
    is_flat: bool = False
    adds_residual: bool = False
    extra: Mapping[str, str] = _nothing()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixer:
    """What mixes positions other than by softmax attention: a state space, a linear attention.

    Attributes:
        path: Relative to the block.
        name: Under which its hook points stand.
        parts: Its modules, name to path.
    """

    path: str
    name: str = "mixer"
    parts: Mapping[str, str] = _nothing()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """One block.

    Attributes:
        ln1: Norm before attention or mixer; ln2: before the MLP.
        ln1_post: Norm after attention, before its result joins the stream; ln2_post: after the MLP.
        attn: Attention.
        cross_attn: Attention to an encoder; ln_cross: the norm before it, after it and its sum in
            a post-norm block.
        mlp: The MLP.
        mixers: What stands in attention's place in some blocks or beside it.
        is_parallel: Whether attention and MLP read the same stream: True, False, or the name of
            the configuration's attribute that says.
        is_post_norm: Whether norms stand on the stream itself, after the sum: BERT.
        multiplier: What both results are multiplied by before they join the stream, or the
            configuration's attribute that says: Granite.
        extra: Further modules worth hooking, name to path.
    """

    ln1: str | None = None
    ln2: str | None = None
    ln1_post: str | None = None
    ln2_post: str | None = None
    ln_cross: str | None = None
    attn: Attention | None = None
    cross_attn: Attention | None = None
    mlp: Mlp | None = None
    mixers: tuple[Mixer, ...] = ()
    is_parallel: bool | str = False
    is_post_norm: bool = False
    multiplier: str | float | None = None
    extra: Mapping[str, str] = _nothing()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """Blocks one after another.

    Attributes:
        name: "blocks"; "encoder_blocks" and "decoder_blocks" where there are both.
        path: Of the list of blocks.
        block: What a block is.
        others: Blocks that are something else, by number.
    """

    path: str
    block: Block
    name: str = "blocks"
    others: Mapping[int, Block] = dataclasses.field(
        default_factory=lambda: MappingProxyType[int, Block]({})
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A kind of model.

    Attributes:
        classes: Names of the classes of transformers that it describes.
        stacks: Its blocks.
        parts: Everything outside of the blocks, by its name: embed, pos_embed, embed_ln,
            rotary_emb, ln_final, unembed, ... A "readout" makes logits of the last stream, with
            whatever else it is given, where that is more than a norm and a projection.
        omits: Activations that parts suggest and the model does not have, as patterns of names
            and aliases: `blocks.*.hook_mlp_out`.
        writes_in_place: Whether a forward pass writes into activations that it has made, so that
            whoever keeps one must keep a copy.
        input_name: What the model's forward calls token ids.
        is_masked: Whether logits are those of the token at their own position: a model that fills
            in masks.
        is_inferred: Whether it was found by looking at a model's structure.
    """

    classes: tuple[str, ...]
    stacks: tuple[Stack, ...]
    parts: Mapping[str, str]
    omits: tuple[str, ...] = ()
    writes_in_place: bool = False
    input_name: str = "input_ids"
    is_masked: bool = False
    is_inferred: bool = False


def describe_decoder(
    *classes: str,
    parts: Mapping[str, str],
    path: str,
    block: Block,
    writes_in_place: bool = False,
) -> Architecture:
    """Return the record of models that are one stack of blocks, all of one kind.

    Args:
        *classes: Names of their classes.
        parts: Everything outside of the blocks, name to path.
        path: Of the list of blocks.
        block: What a block is.
        writes_in_place: Whether a forward pass writes into activations that it has made.
    """
    return Architecture(
        classes=classes,
        parts=MappingProxyType(dict(parts)),
        stacks=(Stack(path=path, block=block),),
        writes_in_place=writes_in_place,
    )
