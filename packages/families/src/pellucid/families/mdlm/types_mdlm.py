"""What the parts of the family hand to each other."""

from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.xlm.sampling import FillBatch, FilledDict


class MDLMBatch(TypedDict):
    """Texts with masks in them, and how much of each is noise.

    Attributes:
        input_ids: Token ids, the mask's where something is asked.
        attention_mask: False on what is hidden from the network.
        target_ids: The token that belongs at each position that could be masked; `IGNORED` at all
            others, such as those of a prompt.
        t: The time of each row, from 0 (clean) to 1 (all masked).
        total_noise: The noise that each row's masks are drawn at, nats: each token is masked with
            the probability 1 - exp(-total_noise).
        noise_rate: Its derivative by the time.
        weight: What the cross-entropy of a row's masks is multiplied with, so that on average it is
            the bound on the row's negative log-likelihood.
        fixed_positions_mask: True where the input is given and never changes.
        positions: Where each token stands in its text; counted if absent.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    target_ids: Int64[Tensor, "batch pos"]
    t: Float[Tensor, " batch"]
    total_noise: Float[Tensor, " batch"]
    noise_rate: Float[Tensor, " batch"]
    weight: Float[Tensor, " batch"]
    fixed_positions_mask: NotRequired[Bool[Tensor, "batch pos"]]
    positions: NotRequired[Int64[Tensor, "batch pos"]]


class MDLMPredictionBatch(FillBatch):
    """Prompts to go on with, or texts with masks to fill."""


class MDLMLossDict(TypedDict):
    """The loss of a batch.

    Attributes:
        loss: Nats per token that could be masked, or per mask, as the loss is set up; 0 if nothing
            is asked.
        tokens: How many tokens of each row it is a mean over.
    """

    loss: Float[Tensor, ""]
    tokens: Int64[Tensor, " batch"]


class MDLMPredictionDict(FilledDict):
    """Filled texts."""


@runtime_checkable
class MDLMNetwork(Protocol):
    """What the loss and the predictor ask of a network."""

    def __call__(
        self,
        x_t: Int64[Tensor, "batch pos"],
        noise: Float[Tensor, " batch"] | None = None,
        attention_mask: Bool[Tensor, "..."] | None = None,
        positions: Int64[Tensor, "batch pos"] | None = None,
        *,
        where: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "... d_vocab"]:
        """Return logits of the token at each position, or at those asked for."""
        ...
