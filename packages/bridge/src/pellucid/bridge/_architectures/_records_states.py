"""State spaces: no attention, no MLP, one mixer a block."""

from types import MappingProxyType

from pellucid.bridge._architectures._record import Architecture, Block, Mixer, describe_decoder


def _describe(name: str, *parts: str) -> Architecture:
    mixer = Mixer(path="mixer", parts=MappingProxyType({part: part for part in parts}))
    return describe_decoder(
        name,
        parts={
            "embed": "backbone.embeddings",
            "ln_final": "backbone.norm_f",
            "unembed": "lm_head",
        },
        path="backbone.layers",
        block=Block(ln1="norm", mixers=(mixer,)),
    )


MAMBA = _describe("MambaForCausalLM", "in_proj", "x_proj", "out_proj")
MAMBA2 = _describe("Mamba2ForCausalLM", "in_proj", "norm", "out_proj")
STATE_RECORDS = (MAMBA, MAMBA2)
