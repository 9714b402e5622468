"""Randomness that depends on a seed, a step and a purpose, and on nothing that ran before.

A run that resumes at step 700 draws at step 700 what an uninterrupted run draws there, without any
generator state being saved. No global generator is read or written.
"""

import dataclasses
import hashlib
import secrets

import torch


@dataclasses.dataclass(frozen=True)
class StepRandom:
    """The source of randomness of one step of one run.

    Attributes:
        seed: The seed of the run.
        step: The step, counted from 1.
    """

    seed: int
    step: int

    def generator(self, purpose: str) -> torch.Generator:
        """Return a CPU generator for one purpose; the same arguments give the same draws."""
        key = f"{self.seed}/{self.step}/{purpose}".encode()
        digest = hashlib.blake2b(key, digest_size=8).digest()
        # torch takes seeds up to 2**63 - 1 on every device.
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def derive_seed(seed: int, purpose: str) -> int:
    """Return a seed of its own for a purpose, from 0 to below 2**32."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def draw_seed() -> int:
    """Return a seed that nobody chose, for a run that was given none."""
    return secrets.randbits(32)
