"""Parts that networks and samplers of several families are made of.

`RotaryTransformer` is a whole backbone of the layers that are here too, and `DDiT` one that is told
a time. The functions draw tokens from logits, each with a generator of its own; `TokenConstraints`
is what every sampler obeys.
"""

from pellucid.xlm.modules._cache import KeyValueCache
from pellucid.xlm.modules._conditioning import AdaLNModulations, TimestepEmbedder, modulate
from pellucid.xlm.modules._constraints import TokenConstraints
from pellucid.xlm.modules._ddit import DDiTFinalLayer, DDiTLayer, DDiTLayerList
from pellucid.xlm.modules._ddit_backbone import DDiT
from pellucid.xlm.modules._embedding import TokenEmbedding
from pellucid.xlm.modules._evaluating import evaluating
from pellucid.xlm.modules._final import RotaryTransformerFinalLayer
from pellucid.xlm.modules._layer import RotaryTransformerLayer, RotaryTransformerLayerList
from pellucid.xlm.modules._length_head import ScalarLengthHead
from pellucid.xlm.modules._masks import attention_mask_of, document_block_mask, document_mask
from pellucid.xlm.modules._neighbours import NeighbourMixing
from pellucid.xlm.modules._rotary import RotaryEmbedding, rotate
from pellucid.xlm.modules._sampling import (
    add_gumbel_noise,
    keep_top_k,
    keep_top_p,
    masked_mean,
    sample_categorical,
    sample_from_logits,
    sample_from_top_k,
    sample_from_top_p,
    select_best,
    select_random_indices,
    stratified_uniforms,
    sum_rows,
)
from pellucid.xlm.modules._transformer import RotaryTransformer, positions_of

__all__ = [
    "AdaLNModulations",
    "DDiT",
    "DDiTFinalLayer",
    "DDiTLayer",
    "DDiTLayerList",
    "KeyValueCache",
    "NeighbourMixing",
    "RotaryEmbedding",
    "RotaryTransformer",
    "RotaryTransformerFinalLayer",
    "RotaryTransformerLayer",
    "RotaryTransformerLayerList",
    "ScalarLengthHead",
    "TimestepEmbedder",
    "TokenConstraints",
    "TokenEmbedding",
    "add_gumbel_noise",
    "attention_mask_of",
    "document_block_mask",
    "document_mask",
    "evaluating",
    "keep_top_k",
    "keep_top_p",
    "masked_mean",
    "modulate",
    "positions_of",
    "rotate",
    "sample_categorical",
    "sample_from_logits",
    "sample_from_top_k",
    "sample_from_top_p",
    "select_best",
    "select_random_indices",
    "stratified_uniforms",
    "sum_rows",
]
