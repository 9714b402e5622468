"""Records of the architectures that people use most, family by family."""

from pellucid.bridge._architectures_encoders import ENCODER_RECORDS
from pellucid.bridge._architectures_experts import EXPERT_RECORDS
from pellucid.bridge._architectures_gpt import GPT_RECORDS
from pellucid.bridge._architectures_llama import LLAMA_RECORDS
from pellucid.bridge._architectures_states import STATE_RECORDS
from pellucid.bridge._record import Architecture

RECORDS: tuple[Architecture, ...] = (
    *LLAMA_RECORDS,
    *GPT_RECORDS,
    *EXPERT_RECORDS,
    *STATE_RECORDS,
    *ENCODER_RECORDS,
)
