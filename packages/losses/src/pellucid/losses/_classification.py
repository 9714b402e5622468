"""Losses over the logits of a classifier."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from pellucid.core import ArgumentError, BaseLoss, LossReads, boundary
from pellucid.losses._token_nll import widen


class ClassificationBasedLoss(BaseLoss):
    """Reads class logits."""


@dataclasses.dataclass
class MisclassCELoss(ClassificationBasedLoss):
    """How far a classifier is from a mistake, as a cross-entropy in nats.

    Args:
        targeted: Whether to bring about `target_class_idx`, not merely to avoid `true_class_idx`.
    """

    targeted: bool = False

    def reads(self) -> LossReads:
        """Say what the loss reads: of the two classes, one."""
        read, unread = self._class_names()
        return LossReads(
            required=frozenset({"output_class_logits", read}), optional=frozenset({unread})
        )

    @boundary
    def __call__(
        self,
        output_class_logits: Float[Tensor, "batch n_classes"],
        target_class_idx: int | None = None,
        true_class_idx: int | None = None,
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each sample.

        Args:
            output_class_logits: The class logits.
            target_class_idx: The class to bring about; read when `targeted`.
            true_class_idx: The class to avoid; read otherwise.

        Returns:
            Float, of shape (batch,): -log p(target), or log p(true).

        Raises:
            ArgumentError: (an AssertionError and ValueError) If the class that is read was not
                given, or if there is no such class.
        """
        name, _ = self._class_names()
        index = target_class_idx if self.targeted else true_class_idx
        n_classes = output_class_logits.shape[1]
        if index is None or not 0 <= index < n_classes:
            raise ArgumentError(
                f"MisclassCELoss(targeted={self.targeted}) needs {name} from 0 to {n_classes - 1}, "
                f"got {index!r}. Set it in Targets."
            )
        logits = widen(output_class_logits)
        wanted = torch.full((len(logits),), index, device=logits.device)
        nll = cross_entropy(logits, wanted, reduction="none")
        return nll if self.targeted else -nll

    def _class_names(self) -> tuple[str, str]:
        target, true = "target_class_idx", "true_class_idx"
        return (target, true) if self.targeted else (true, target)
