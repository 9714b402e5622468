"""What a bridged model is, in numbers."""

import dataclasses
from typing import Any

from torch import nn

from pellucid.bridge._record import Architecture


@dataclasses.dataclass
class TransformerBridgeConfig:
    """A placeholder that the next commit fills."""

    n_layers: int = 0
    use_attn_result: bool = False
    use_split_qkv_input: bool = False
    use_attn_in: bool = False
    use_hook_mlp_in: bool = False

    @classmethod
    def from_model(cls, model: nn.Module, record: Architecture) -> "TransformerBridgeConfig":
        """Read it."""
        held: Any = model.config
        return cls(n_layers=held.num_hidden_layers)
