"""What an optimization run returns."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core._errors import CheckpointError
from pellucid.core._parts import split_parts


@dataclasses.dataclass(kw_only=True)
class OptimizerResult:
    """The best trigger of a run, and how the run got there.

    Attributes:
        best_loss: The lowest loss seen, the initial trigger's included.
        best_trigger_ids: Token ids of the best trigger, int, of shape (trigger_pos,).
        best_trigger_str: The best trigger as text.
        best_trigger_emb: Embeddings of a soft trigger, of shape (trigger_pos, d_model).
        best_trigger_probs: Token probabilities of a relaxed trigger, (trigger_pos, d_vocab).
        losses: The loss of each step's trigger; the initial one is not among them.
        trigger_strs: The trigger of each step.
        initial_loss: The loss of the initial trigger.
        verified_loss: The loss of the best trigger, recomputed from text; None where the model
            cannot be given text.
        tokenization_gap: How many tokens of the best trigger, given as text, differ from those it
            was optimized as; None where unknown.
        stop_reason: Why the run ended: "steps", "budget", "success", "interrupted" and so on.
        seed: The seed of the run.
        usage: The model's usage statistics.
        part_lengths: How many tokens each part of the trigger has; None if it has no parts.
    """

    best_loss: float = float("inf")
    best_trigger_ids: Int[Tensor, " trigger_pos"] | None = None
    best_trigger_str: str | None = None
    best_trigger_emb: Float[Tensor, "trigger_pos d_model"] | None = None
    best_trigger_probs: Float[Tensor, "trigger_pos d_vocab"] | None = None
    losses: list[float] = dataclasses.field(default_factory=list)
    trigger_strs: list[str] = dataclasses.field(default_factory=list)
    initial_loss: float | None = None
    verified_loss: float | None = None
    tokenization_gap: int | None = None
    stop_reason: str | None = None
    seed: int | None = None
    usage: dict[str, int] = dataclasses.field(default_factory=dict)
    part_lengths: list[int] | None = None

    @property
    def best_trigger_parts(self) -> list[str] | None:
        """The text of each part of the best trigger; one text if it has no parts."""
        if self.best_trigger_str is None:
            return None
        if self.part_lengths is None:
            return [self.best_trigger_str]
        return split_parts(self.best_trigger_str)

    @property
    def best_trigger_part_ids(self) -> list[Int[Tensor, " _"]] | None:
        """The token ids of each part of the best trigger; one row if it has no parts."""
        if self.best_trigger_ids is None:
            return None
        return list(self.best_trigger_ids.split(self.part_lengths or len(self.best_trigger_ids)))

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome without the history and without tensors, ready for a tracker."""
        names = ("best_loss", "best_trigger_str", "initial_loss", "verified_loss", "stop_reason")
        return {name: getattr(self, name) for name in names}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as JSON, tensors included; the file appears whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        text = json.dumps(fields, default=_encode_tensor, indent=1)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "OptimizerResult":
        """Read what `save` wrote.

        Raises:
            CheckpointError: (a ValueError) If the file does not hold a result.
        """
        try:
            held = json.loads(Path(path).read_text(encoding="utf-8"), object_hook=_decode_tensor)
            return cls(best_loss=float(held.pop("best_loss")), **held)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{os.fspath(path)!r} does not hold an OptimizerResult: {error}"
            ) from error


def _encode_tensor(value: Any) -> Any:
    if not isinstance(value, Tensor):
        raise TypeError(f"cannot write {type(value).__name__} as JSON")
    dtype = str(value.dtype).removeprefix("torch.")
    return {"dtype": dtype, "tensor": value.detach().cpu().tolist(), "shape": list(value.shape)}


def _decode_tensor(held: dict[str, Any]) -> Any:
    if held.keys() != {"dtype", "tensor", "shape"}:
        return held
    return torch.tensor(held["tensor"], dtype=getattr(torch, held["dtype"])).reshape(held["shape"])
