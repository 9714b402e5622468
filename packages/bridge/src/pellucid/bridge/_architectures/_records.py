"""Records of the architectures that people use most, family by family."""

from pellucid.bridge._architectures._record import Architecture
from pellucid.bridge._architectures._records_encoders import ENCODER_RECORDS
from pellucid.bridge._architectures._records_experts import EXPERT_RECORDS
from pellucid.bridge._architectures._records_gpt import GPT_RECORDS
from pellucid.bridge._architectures._records_llama import LLAMA_RECORDS
from pellucid.bridge._architectures._records_states import STATE_RECORDS

RECORDS: tuple[Architecture, ...] = (
    *LLAMA_RECORDS,
    *GPT_RECORDS,
    *EXPERT_RECORDS,
    *STATE_RECORDS,
    *ENCODER_RECORDS,
)
