"""Seeds that follow from where in a run something is drawn."""

import hashlib

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


__all__ = ["seed_at"]
