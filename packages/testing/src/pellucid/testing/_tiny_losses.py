"""Small losses for tests that must not depend on the package of losses."""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import BaseLoss


@dataclasses.dataclass
class TinyResponseLoss(BaseLoss):
    """Mean negative log-likelihood of the target response's tokens, in nats."""

    require_target_prefill = True

    def __call__(
        self,
        prefill_response_logits: Float[Tensor, "batch target_pos d_vocab"],
        target_response_toks: Int[Tensor, " target_pos"],
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample, float, of shape (batch,)."""
        logprobs = _widen(prefill_response_logits).log_softmax(dim=-1)
        tokens = target_response_toks.long().to(logprobs.device).expand(len(logprobs), -1)
        return -logprobs.gather(-1, tokens[..., None])[..., 0].mean(dim=-1)


@dataclasses.dataclass
class TinyVectorLoss(BaseLoss):
    """Negative cosine with the target vector, or with a fixed one where there is none."""

    def __call__(
        self,
        output_embeddings: Float[Tensor, "batch d_embed"],
        target_vectors: Float[Tensor, " d_embed"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample, float, of shape (batch,)."""
        vectors = _widen(output_embeddings)
        if target_vectors is None:
            target_vectors = torch.cos(torch.arange(vectors.shape[-1], device=vectors.device))
        target = target_vectors.to(vectors)
        return -torch.nn.functional.cosine_similarity(vectors, target[None], dim=-1)


@dataclasses.dataclass
class TinyClassLoss(BaseLoss):
    """Negative log-probability of the target class, or of class 0 where there is none, in nats."""

    def __call__(
        self,
        output_class_logits: Float[Tensor, "batch n_classes"],
        target_class_idx: int | None = None,
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample, float, of shape (batch,)."""
        return -_widen(output_class_logits).log_softmax(dim=-1)[:, target_class_idx or 0]


@dataclasses.dataclass
class TinyLogitLoss(BaseLoss):
    """Negative log-probability of token 0, the mean over all positions, in nats."""

    def __call__(self, full_logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """Return the loss of each sample, float, of shape (batch,)."""
        return -_widen(full_logits).log_softmax(dim=-1)[..., 0].mean(dim=-1)


@dataclasses.dataclass
class TinyFirstTokenLoss(BaseLoss):
    """Negative log-probability of the likeliest first token of a response, in nats."""

    is_differentiable = False
    require_first_token_logprobs = True

    def __call__(
        self, response_first_token_logprobs: list[dict[str, float] | None]
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample, float, of shape (batch,); NaN where there is none."""
        rows = response_first_token_logprobs
        return torch.tensor([-max(row.values()) if row else float("nan") for row in rows])


@dataclasses.dataclass
class TinyTextLoss(BaseLoss):
    """A number that moves with any change of the response: its code points, weighted by place."""

    is_differentiable = False
    require_generation = True

    def __call__(self, generated_response_strs: list[str | None]) -> Float[Tensor, " batch"]:
        """Return the loss of each sample, float, of shape (batch,)."""
        texts = [text or "" for text in generated_response_strs]
        sums = [sum(i * ord(c) for i, c in enumerate(text, start=1)) for text in texts]
        return torch.tensor(sums, dtype=torch.float32)


def _widen(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return values.to(torch.promote_types(values.dtype, torch.float32))
