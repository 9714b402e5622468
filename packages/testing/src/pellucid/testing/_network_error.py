"""The error of a test that is not offline."""

from pellucid.core import PellucidError


class NetworkAccessError(PellucidError, RuntimeError):
    """A test reached for the network outside loopback.

    Not an OSError: libraries that fall back to a cache, or try again, on those would hide it.
    """
