"""Candidates split over processes, each of which holds a whole model."""

import atexit
import dataclasses
import zlib
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError, RequirementError
from pellucid.hf._beginnings import Arrangement

_Model = TypeVar("_Model")


def shard_candidates(model: _Model) -> _Model:
    """Let the processes of `accelerate launch` share the evaluation of a model's candidates.

    Every process makes the same model, calls this, and then does the same as all others: each
    computes the losses of its share of the candidates, and all get all losses, bit for bit the
    same. Gradients are computed by each and taken from the first. Usage statistics count what all
    processes computed for losses. What a run draws at random must come from the same seed
    everywhere.

    Args:
        model: A backend of this package; losses of triggers given as tokens are split.

    Returns:
        The same model. With a single process nothing changes.

    Raises:
        RequirementError: (a TypeError) If it is no such model, or accelerate is not installed.
    """
    if not hasattr(model, "_shards"):
        raise RequirementError(
            f"candidates are split for the models of pellucid.hf alone, got {type(model).__name__}."
        )
    shards = CandidateShards(model)
    vars(model)["_shards"] = shards if shards.n_processes > 1 else None
    return model


class CandidateShards:
    """This process's share of the candidates, and the way to the others.

    Args:
        model: On whose device tensors are exchanged.
    """

    def __init__(self, model: Any) -> None:
        try:
            from accelerate import PartialState  # noqa: PLC0415 - an extra
            from accelerate.utils import broadcast, gather, reduce  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise RequirementError(
                "splitting candidates over processes needs accelerate. "
                "Install pellucid-hf[accelerate]."
            ) from error
        had_group = _has_group()
        state = PartialState(cpu=model.device.type == "cpu")
        if _has_group() and not had_group:
            # A group whose threads outlive the interpreter aborts its process, now and then.
            atexit.register(_leave_group)
        self.n_processes: int = state.num_processes
        self._index: int = state.process_index
        self._gather: Any = gather
        self._broadcast: Any = broadcast
        self._reduce: Any = reduce

    def split(self, arranged: Arrangement) -> Arrangement:
        """Return this process's share; all shares have the same number of rows.

        Raises:
            ArgumentError: (a ValueError) In every process, if they were not given the same.
        """
        self._check_same(arranged)
        n = len(arranged.ids)
        size = -(-n // self.n_processes)
        start = self._index * size
        # The last row stands in for what is missing.
        return arranged.take([min(i, n - 1) for i in range(start, start + size)])

    def gather(
        self, losses: Float[Tensor, "n_templates _"], n_candidates: int
    ) -> Float[Tensor, "n_templates n_candidates"]:
        """Put the losses of all shares together."""
        return self._gather(losses.mT.contiguous())[:n_candidates].mT

    def agree(self, values: Tensor) -> Tensor:
        """Return the first process's values."""
        return self._broadcast(values.contiguous(), from_process=0)

    def add_up(self, before: Any, after: Any, device: torch.device) -> Any:
        """Return usage statistics that have grown by what they have grown by in all processes."""
        grown = {
            name: value - getattr(before, name) for name, value in dataclasses.asdict(after).items()
        }
        total = self._reduce(torch.tensor(list(grown.values()), device=device), reduction="sum")
        counts = zip(grown, total.tolist(), strict=True)
        return dataclasses.replace(
            before, **{name: getattr(before, name) + count for name, count in counts}
        )

    def _check_same(self, arranged: Arrangement) -> None:
        mark = zlib.crc32(arranged.ids.cpu().numpy().tobytes())
        marks = self._gather(torch.tensor([mark], device=arranged.ids.device)).tolist()
        if len(set(marks)) > 1:
            raise ArgumentError(
                f"the {self.n_processes} processes were given different candidates. Start all of "
                "them with the same seed, and let none of them decide by the clock."
            )


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _leave_group() -> None:
    if _has_group():
        dist.destroy_process_group()
