"""FLOP counting by the rule of Kaplan et al. 2020 (arXiv 2001.08361, section 2.1).

A forward pass over T tokens costs about 2NT FLOPs, N being the weights that take part; a backward
pass costs twice that, half of it for the weights' gradients, which frozen weights do not need.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from pellucid.core._errors import RequirementError

_EXPERT_COUNT = ("num_local_experts", "num_experts", "n_routed_experts")
_EXPERTS_PER_TOKEN = (
    "num_experts_per_tok",
    "num_selected_experts",
    "top_k_experts",
    "top_k",
)


class FlopCounterBase(ABC):
    """Says what a forward and a backward pass over a number of tokens cost."""

    @abstractmethod
    def count_forward(self, n_tokens: int) -> int:
        """Return the FLOPs of a forward pass over `n_tokens` tokens."""

    @abstractmethod
    def count_backward(self, n_tokens: int) -> int:
        """Return the FLOPs of a backward pass over `n_tokens` tokens."""


class ManualFlopCounter(FlopCounterBase):
    """Counts 2NT a forward pass, 4NT a backward pass, 2NT where every weight is frozen.

    N are the weights outside the token embeddings; of a mixture of experts, only the share of
    expert weights that one token meets. Attention scores and the loss are not counted.

    Args:
        model: A transformers `PreTrainedModel`.

    Raises:
        RequirementError: (a TypeError) If `model` is anything else.
    """

    def __init__(self, model: object) -> None:
        if not isinstance(model, nn.Module) or not _is_pretrained_model(model):
            raise RequirementError(
                "FLOPs are counted for transformers.PreTrainedModel alone, got "
                f"{type(model).__name__}. Use set_flop_counting('none') with this model."
            )
        self._model = model
        self.n_active_params = _count_active_params(model)

    def count_forward(self, n_tokens: int) -> int:
        """Return 2NT."""
        return 2 * self.n_active_params * n_tokens

    def count_backward(self, n_tokens: int) -> int:
        """Return 4NT, or 2NT when no weight needs a gradient."""
        is_trained = any(weight.requires_grad for weight in self._model.parameters())
        return (4 if is_trained else 2) * self.n_active_params * n_tokens


def _is_pretrained_model(model: object) -> bool:
    # By name, since core does not import transformers.
    return any(
        cls.__name__ == "PreTrainedModel" and cls.__module__.startswith("transformers.")
        for cls in type(model).__mro__
    )


def _count_active_params(model: Any) -> int:
    embedding = model.get_input_embeddings()
    embedding_weights = {id(weight) for weight in embedding.parameters()}
    shared = experts = 0
    for name, weight in model.named_parameters():
        size = _count_weights(weight)
        if ".experts." in name:
            experts += size
        elif id(weight) not in embedding_weights or _is_tied_head(model, weight):
            shared += size
    return shared + int(experts * _active_share(model.config))


def _is_tied_head(model: Any, weight: nn.Parameter) -> bool:
    # A tied table is looked up for free at the input, but multiplied at the output.
    head = model.get_output_embeddings()
    return head is not None and getattr(head, "weight", None) is weight


def _count_weights(weight: nn.Parameter) -> int:
    # bitsandbytes packs two 4-bit weights into a byte.
    packed = 2 if type(weight).__name__ == "Params4bit" else 1
    return weight.numel() * packed


def _active_share(config: Any) -> float:
    config = getattr(config, "text_config", config)
    n_experts = _first_int(config, _EXPERT_COUNT)
    n_active = _first_int(config, _EXPERTS_PER_TOKEN)
    return n_active / n_experts if n_experts and n_active else 1.0


def _first_int(config: Any, names: tuple[str, ...]) -> int | None:
    held = (getattr(config, name, None) for name in names)
    return next((value for value in held if isinstance(value, int)), None)
