"""What the laws of all suites are written with."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def expect(holds: bool, otherwise: str) -> None:
    """Fail with a message of its own; assertions in a library are not rewritten by pytest."""
    if not holds:
        raise AssertionError(otherwise)


def snapshot(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a batch that nothing can change."""
    return {
        name: held.clone() if isinstance(held, Tensor) else copy.deepcopy(held)
        for name, held in batch.items()
    }


def expect_unchanged(batch: Mapping[str, Any], before: Mapping[str, Any], who: str) -> None:
    """Fail if a batch is not what it was."""
    for name, held in before.items():
        now = batch.get(name)
        if isinstance(held, Tensor) and isinstance(now, Tensor):
            same = torch.equal(now, held)
        else:
            same = bool(now == held)
        expect(same, f"{who} changed {name!r} of its batch.")
