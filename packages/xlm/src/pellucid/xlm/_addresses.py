"""Seeds that follow from where in a run something is drawn, and the generators they go to."""

import hashlib
from typing import Any

import torch
from torch import Tensor

_SEED_BYTES = 7  # below 2**63, which every generator takes


def seed_at(seed: int, *place: int | str) -> int:
    """Return the seed of one place in a run.

    A batch that is drawn again after a resume draws the same, whatever was drawn before it, so no
    generator's state needs to be kept.

    Args:
        seed: The seed of the run.
        place: What tells this place from all others, such as ("train", rank, epoch, batch).

    Returns:
        A seed for one generator, at least 0 and below 2**56.
    """
    address = "/".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.blake2b(address.encode(), digest_size=_SEED_BYTES).digest())


class GlobalRandomness:
    """Torch's own generators, from which dropout draws: those of the CPU and of one device.

    `torch.manual_seed` would queue work for every kind of device that is not there, with a
    traceback each: milliseconds a batch.

    Args:
        device: The model's.
    """

    def __init__(self, device: torch.device) -> None:
        self._generators: list[Any] = [torch.default_generator]
        if device.type == "cuda":
            torch.cuda.init()
            self._generators.append(torch.cuda.default_generators[device.index or 0])
        self._is_other = device.type not in ("cpu", "cuda")
        self._states: list[Tensor] = [each.get_state() for each in self._generators]

    def seed(self, seed: int) -> None:
        """Seed them."""
        if self._is_other:
            torch.manual_seed(seed)
        for generator in self._generators:
            generator.manual_seed(seed)

    def restore(self) -> None:
        """Put them back to what they were when this was made."""
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)


__all__ = ["GlobalRandomness", "seed_at"]
