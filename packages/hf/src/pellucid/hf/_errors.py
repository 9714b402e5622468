"""The one error that this package adds to those of core."""

from pellucid.core import PellucidError


class ModelLoadError(PellucidError, OSError):
    """A model or a tokenizer cannot be loaded from the name or path given."""
