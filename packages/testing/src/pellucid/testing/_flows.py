"""The two flows in which a model computes losses, behind one face: a law is written once."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    Flow,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    Targets,
    Template,
    as_tokenizer,
)
from pellucid.testing._laws import random_ids

FLOWS = (Flow.TEXTS, Flow.TOKENS)
"""The flows that losses are computed in."""

_WORDS = ("red", "cat", "hello", "you", "yes", "no", "sun", "dog")
_N_TOKENS = 5


class LossFlow(ABC):
    """A model in one of its flows.

    Args:
        model: The model.
    """

    access: ClassVar[type]
    flow: ClassVar[Flow]

    def __init__(self, model: Any) -> None:
        self.model = model

    @abstractmethod
    def set_inputs(self, templates: Sequence[Template], targets: Targets | None) -> None:
        """Prepare templates."""

    @abstractmethod
    def reset_inputs(self) -> None:
        """Forget them."""

    @abstractmethod
    def make_candidates(self, n_candidates: int) -> Any:
        """Return candidates that differ from one another."""

    @abstractmethod
    def take(self, candidates: Any, rows: Sequence[int]) -> Any:
        """Return some of the candidates."""

    @abstractmethod
    def compute(self, candidates: Any, loss: BaseLoss, *, keep: bool = False) -> Tensor:
        """Return the loss of each candidate; with `keep`, of each template and candidate."""


class TextFlow(LossFlow):
    """A model that is given texts."""

    access = LossTextAccessMixin
    flow = Flow.TEXTS

    def set_inputs(self, templates: Sequence[Template], targets: Targets | None) -> None:
        """Prepare templates."""
        self.model.set_inputs_from_texts(templates, targets)

    def reset_inputs(self) -> None:
        """Forget them."""
        self.model.reset_inputs_from_texts()

    def make_candidates(self, n_candidates: int) -> Any:
        """Return texts of different lengths."""
        return [" ".join(_WORDS[i : 2 * i + 1]) or _WORDS[-1] for i in range(n_candidates)]

    def take(self, candidates: Any, rows: Sequence[int]) -> Any:
        """Return some of the texts."""
        return [candidates[row] for row in rows]

    def compute(self, candidates: Any, loss: BaseLoss, *, keep: bool = False) -> Tensor:
        """Return the loss of each text."""
        return self.model.compute_loss_from_texts(candidates, loss, keep)


class TokenFlow(LossFlow):
    """A model that is given token ids."""

    access = LossTokenAccessMixin
    flow = Flow.TOKENS

    def set_inputs(self, templates: Sequence[Template], targets: Targets | None) -> None:
        """Prepare templates."""
        self.model.set_inputs_from_tokens(templates, targets)

    def reset_inputs(self) -> None:
        """Forget them."""
        self.model.reset_inputs_from_tokens()

    def make_candidates(self, n_candidates: int) -> Any:
        """Return random token ids, special ones left out."""
        tokenizer = as_tokenizer(self.model.tokenizer)
        allowed = set(range(tokenizer.vocab_size)) - set(tokenizer.all_special_ids)
        return random_ids(allowed, n_candidates, _N_TOKENS)

    def take(self, candidates: Any, rows: Sequence[int]) -> Any:
        """Return some of the rows."""
        return candidates[torch.tensor(rows)]

    def compute(self, candidates: Any, loss: BaseLoss, *, keep: bool = False) -> Tensor:
        """Return the loss of each row."""
        return self.model.compute_loss_from_tokens(candidates, loss, keep)


FLOW_TYPES: dict[Flow, type[LossFlow]] = {Flow.TEXTS: TextFlow, Flow.TOKENS: TokenFlow}
